"""Messages between the processes: whatever is sent arrives as it was."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.decoding_limits import SCOPES
from falconer.errors import FalconerError
from falconer.model.engine import Decoding, Joining, Request, Said
from falconer.talk.server.messages import asked, end_of, error_of, frame, joining_of, messages, said_of, told
from falconer.talk.server.worker import BrokenError, QueueFullError, StoppingError

TOKENS = st.integers(0, 2**17)
LOGPROBS = st.floats(allow_nan=False)
TOPS = st.lists(st.tuples(TOKENS, LOGPROBS)).map(tuple)


def received(*sent: bytes) -> list[list]:
    async def read():
        reader = asyncio.StreamReader()
        reader.feed_data(b"".join(sent))
        reader.feed_eof()
        return [message async for message in messages(reader)]

    return asyncio.run(read())


@given(
    st.lists(TOKENS, min_size=1),
    st.builds(
        Decoding,
        max_new_tokens=st.integers(1, 10**6),
        temperature=st.floats(0, 10),
        top_p=st.floats(0, 1),
        repetition_penalty=st.floats(0.1, 10),
        seed=st.integers(-(2**63), 2**63),
        top_k=st.integers(0, 2**31),
        stops=st.none() | st.lists(TOKENS).map(tuple),
        num_logprobs=st.none() | st.integers(0, 20),
        min_p=st.floats(0, 1),
        no_repeat_ngram_size=st.integers(0, 16),
        no_repeat_ngram_scope=st.sampled_from(SCOPES),
        repetition_penalty_scope=st.sampled_from(SCOPES),
        length_penalty=st.floats(-9, 9),
    ),
    st.sampled_from([(), ((0, 1),), ((0, 0), (1, 1))]),
    st.none() | st.text(min_size=1),
)
def test_a_request_arrives_as_it_was_asked(prompt, decoding, own_turns, adapter):
    joining = Joining(Request(prompt, decoding, 3, own_turns), adapter)
    ((word, number, *values),) = received(asked(7, joining))
    assert (word, number) == ("ask", 7) and joining_of(*values) == joining


@given(st.lists(st.tuples(TOKENS, LOGPROBS, TOPS), max_size=3), st.booleans())
def test_tokens_arrive_as_they_were_said(values, has_logprobs):
    said = [Said(*one) if has_logprobs else Said(one[0]) for one in values]
    ((_, (number, num_cached, tokens, details, end)),) = received(frame("news", told(5, 9, said, None)))
    assert (number, num_cached, end) == (5, 9, None) and said_of(tokens, details) == said


@pytest.mark.parametrize("kind", [QueueFullError, StoppingError, BrokenError])
def test_the_end_of_a_reply_arrives_as_it_was(kind):
    assert isinstance(error_of(end_of(kind())), kind)
    assert error_of(end_of(None)) is None
    error = error_of(end_of(FalconerError("Memory is full.", "Use fewer slots.")))
    assert isinstance(error, FalconerError) and (error.message, error.hint) == ("Memory is full.", "Use fewer slots.")


@pytest.mark.parametrize("missing", [1, 3, 9])
def test_a_message_that_is_cut_off_is_none(missing):
    assert received(frame("ready"), frame("look")[:-missing]) == [["ready"]]
