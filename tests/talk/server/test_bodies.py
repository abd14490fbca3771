"""Bodies: the events are valid JSON whatever the text, and written fast."""

import json
from time import perf_counter

import pytest

from falconer.model.engine import Said
from falconer.talk.server.bodies import Bodies, Usage, failure
from falconer.talk.server.errors import ApiError
from falconer.talk.server.reading import Piece

USAGE = Usage(10, 4, 7)
ODD = 'quote " backslash \\ ] } line\n \u2028 \U0001f600 </script> \x00'


def event(raw):
    assert raw.startswith(b"data: ") and raw.endswith(b"\n\n") and raw.count(b"\n") == 2
    return json.loads(raw[6:])


@pytest.mark.parametrize("is_chat", [True, False])
@pytest.mark.parametrize("has_usage", [True, False])
def test_events_are_those_of_openai(is_chat, has_usage):
    bodies = Bodies(is_chat, 'a "model"]', 17, has_usage, num_dropped=3)
    piece = event(bodies.piece(1, Piece(ODD), 0))
    assert piece["id"] == bodies.id and piece["model"] == 'a "model"]' and piece["created"] == 17
    choice = piece["choices"][0]
    assert (choice["delta"]["content"] if is_chat else choice["text"]) == ODD
    assert choice["index"] == 1 and choice["finish_reason"] is None and choice["logprobs"] is None
    assert ("usage" in piece) == has_usage
    assert event(bodies.closing(0, "length"))["choices"][0]["finish_reason"] == "length"
    if is_chat:
        assert event(bodies.opening(0))["dropped_turns"] == 3
    else:
        assert bodies.opening(0) == b""
    if has_usage:
        assert event(bodies.usage(USAGE)) | {"choices": []} == event(bodies.usage(USAGE))
        assert event(bodies.usage(USAGE))["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
    else:
        assert bodies.usage(USAGE) == b""


def test_a_whole_answer_joins_its_pieces():
    bodies = Bodies(False, "a", 17, decode=lambda ids: f"<{ids[0]}>")
    pieces = [Piece("one", (Said(3, -1.0),)), Piece(" two", (Said(4, -2.0, ((4, -2.0),)),))]
    whole = json.loads(bodies.whole([(pieces, "stop")], USAGE))
    assert whole["choices"][0]["text"] == "one two" and "dropped_turns" not in whole
    assert whole["choices"][0]["logprobs"]["tokens"] == ["<3>", "<4>"]
    assert whole["usage"]["total_tokens"] == 17


def test_an_event_takes_microseconds():
    bodies, piece = Bodies(True, "a", 17), Piece(" walks")
    best = float("inf")
    for _ in range(20):
        start = perf_counter()
        for _ in range(500):
            bodies.piece(0, piece, 0)
        best = min(best, (perf_counter() - start) / 500)
    assert best < 25e-6, "256 streams write 10,000 events a second"


def test_a_failure_is_an_event():
    assert event(failure(ApiError(504, "No.")))["error"]["message"] == "No."
