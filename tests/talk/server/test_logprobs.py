"""Log-probabilities in the form of both kinds of answers."""

import math

from falconer.model.engine import Said
from falconer.talk.server.logprobs import of_chat, of_text

TEXTS = {1: "a", 2: "\u00e9", 3: "\ufffd"}
SAID = [Said(1, -0.5, ((1, -0.5), (2, -math.inf))), Said(2, math.nan), Said(3, None)]


def decode(ids):
    return TEXTS[ids[0]]


def test_of_a_chat():
    first, second, third = of_chat(SAID, decode)["content"]
    assert first["bytes"] == [97] and second["bytes"] == [0xC3, 0xA9] and third["bytes"] is None
    assert [one["logprob"] for one in first["top_logprobs"]] == [-0.5, -9999.0], "JSON has no infinity"
    assert second["logprob"] == third["logprob"] == -9999.0


def test_of_a_text():
    found = of_text(SAID, decode, 5)
    assert found["tokens"] == ["a", "\u00e9", "\ufffd"] and found["text_offset"] == [5, 6, 7]
    assert found["top_logprobs"] == [{"a": -0.5, "\u00e9": -9999.0}, {}, {}]
