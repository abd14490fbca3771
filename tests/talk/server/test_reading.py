"""One reply: its pieces, its tokens, and why it ended."""

import asyncio

import pytest

from falconer.model.engine import Said
from falconer.talk.server.raw_text import RawText
from falconer.talk.server.reading import Reading
from falconer.talk.text import Writer
from served import encoder_of


class Stream:
    """Yields lists of tokens, and notes whether it was cancelled."""

    def __init__(self, *looks):
        self.looks, self.num_cached, self.is_cancelled = looks, 3, False

    async def __aiter__(self):
        for look in self.looks:
            yield [Said(token, -1.0) for token in look]

    def cancel(self):
        self.is_cancelled = True


@pytest.fixture(scope="module")
def encoder():
    return encoder_of()


def read(reading):
    async def collect():
        return [piece async for piece in reading.pieces()]

    return asyncio.run(collect())


def test_all_tokens_of_a_look_are_one_piece(encoder):
    ids = encoder.encode_text(" i like long walks .")
    reading = Reading(Stream(ids[:3], [], ids[3:]), Writer(encoder).reply(), (), has_tokens=False)
    pieces = read(reading)
    assert "".join(piece.text for piece in pieces) == "I like long walks."
    assert [piece.said for piece in pieces] == [()] * len(pieces)
    assert (reading.num_tokens, reading.num_cached, reading.finish) == (len(ids), 3, "length")
    assert reading.started is not None and reading.started <= reading.ended


@pytest.mark.parametrize("has_tokens", [True, False])
def test_a_reply_that_runs_on_is_cut_and_cancelled(encoder, has_tokens):
    ids = encoder.encode_text(" hi\nUser: hello")
    stream = Stream(ids, ids)
    reading = Reading(stream, Writer(encoder).reply(), (), has_tokens=has_tokens)
    assert "".join(piece.text for piece in read(reading)) == "Hi"
    assert reading.finish == "stop" and stream.is_cancelled and reading.num_tokens == len(ids)


def test_a_stop_token_ends_a_reply_and_is_not_among_its_tokens(encoder):
    stop = encoder.line_break()[0]
    ids = encoder.encode_text(" hi there")
    reading = Reading(Stream(ids, [stop]), RawText(encoder), (stop,), has_tokens=True)
    pieces = read(reading)
    assert [one.token for piece in pieces for one in piece.said] == ids
    assert reading.finish == "stop"
    ended = Reading(Stream([*ids, encoder.end_id]), RawText(encoder), (encoder.end_id,), has_tokens=True)
    assert [one.token for piece in read(ended) for one in piece.said] == ids and ended.finish == "stop"
