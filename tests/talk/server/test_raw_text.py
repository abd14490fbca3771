"""Bare text: the pieces join to the whole, and it ends where it should."""

import pytest

from falconer.talk.server.raw_text import RawText
from served import encoder_of

TEXTS = (" i like it .", "\nA: caf\u00e9 \U0001f600 ok  two  spaces\n\n", "\u4f60\u597d, \U0001f468\u200d\U0001f469")


@pytest.fixture(scope="module")
def encoder():
    return encoder_of()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_the_pieces_join_to_the_text(encoder, text, size):
    ids, raw = encoder.encode_text(text), RawText(encoder)
    pieces = [raw.add(ids[start : start + size]) for start in range(0, len(ids), size)]
    assert "".join([*pieces, raw.end()]) == text and not raw.ended
    assert raw.is_over and raw.add(ids) == ""


def test_an_end_token_ends_it(encoder):
    ids, raw = encoder.encode_text(" one"), RawText(encoder)
    assert raw.add([*ids, encoder.end_id, *ids]) == " one" and raw.ended and raw.is_over and raw.end() == ""


def test_a_stop_text_ends_it_across_tokens(encoder):
    raw = RawText(encoder, ["walks on"])
    ids = encoder.encode_text(" i like long walks on the beach")
    shown = "".join(raw.add([token]) for token in ids)
    assert shown == " i like long " and raw.is_over and not raw.ended
    held = RawText(encoder, ["walks off"])
    assert held.add(encoder.encode_text(" long walks o")) + held.end() == " long walks o"
