"""A failing input is found and made small, and records are made anew behind their own hash."""

import json
import random
from pathlib import Path

import pytest

from falconer.errors import FalconerError
from falconer.run.manifest import check_seal, sealed
from torture.mutated_inputs import Kind, _sealed_again, attempt, one_line, smallest, told
from torture.mutations import TooLong, at_most


def test_a_failing_input_is_found_and_made_small() -> None:
    def read(content: bytes) -> str:
        if b"bad" in content:
            raise KeyError("a bug")
        return "read"

    kind = Kind(lambda dice: b"", read)
    assert attempt(kind, b"good") == ("read", "")
    assert "KeyError" in attempt(kind, b"x" * 500 + b"bad" + b"y" * 500)[1]
    assert smallest(kind, b"x" * 500 + b"bad" + b"y" * 500) == b"bad"


def test_what_is_not_one_line_is_found() -> None:
    assert one_line(2, "falconer: it is damaged.\n", "") == "refused" and one_line(0, "", "a table\n") == "read"
    for code, err in ((1, "falconer: x\n"), (2, "Traceback\nfalconer: x\n"), (2, "falconer: \x1b[2J\n"), (2, "x\n")):
        with pytest.raises(AssertionError):
            one_line(code, err, "")
    assert told(FalconerError("It is damaged.")) == "refused"
    with pytest.raises(AssertionError):
        told(FalconerError("It is damaged.", "x" * 3001))


def test_an_input_that_takes_too_long_is_stopped() -> None:
    with pytest.raises(TooLong), at_most(0.02):
        while True:
            pass


def test_an_input_whose_reader_swallows_the_end_of_its_time_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(content: bytes) -> str:
        try:
            while True:
                pass
        except BaseException:
            return "refused"

    monkeypatch.setattr("torture.mutated_inputs.MOST_S", 0.02)
    outcome, trace = attempt(Kind(lambda dice: b"", read), b"")
    assert outcome == "" and "takes more than" in trace


def test_a_changed_record_gets_a_hash_that_fits() -> None:
    changed = json.dumps(sealed({"step": 1}) | {"step": 2})
    found = {_sealed_again(f"a.json\n{changed}".encode(), random.Random(seed)) for seed in range(20)}
    contents = [one.partition(b"\n")[2] for one in found]
    assert len(contents) == 2  # as it was, and made anew
    refused = 0
    for content in contents:
        try:
            check_seal(json.loads(content), Path("a.json"), "")
        except FalconerError:
            refused += 1
    assert refused == 1
