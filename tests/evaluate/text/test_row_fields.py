"""Fields mean the same under every name that programs give them, and hold what they should or are refused."""

from pathlib import Path
from typing import Any

import pytest

from falconer.errors import FalconerError
from falconer.evaluate.text.row import Row, row_of
from falconer.evaluate.text.row_fields import (
    PREDICTION_KEYS,
    REFERENCE_KEYS,
    dialogue_of,
    from_cell,
    is_known,
    measured_of,
    prediction_of,
    references_of,
    row_id,
    says_gold,
    turn_of,
)
from falconer.records import Ranks


def row(**fields: Any) -> Row:
    return row_of(Path("a.jsonl"), "line 1", 1, fields)


@pytest.mark.parametrize("name", PREDICTION_KEYS)
def test_a_reply_under_every_name(name: str) -> None:
    assert prediction_of(row(**{name: "hi"})) == prediction_of(row(**{name: ["hi"]})) == "hi"
    assert prediction_of(row(**{name.upper(): "hi", "label": 3})) == "hi" and is_known(name)


@pytest.mark.parametrize("name", REFERENCE_KEYS)
def test_gold_under_every_name(name: str) -> None:
    assert references_of(row(**{name: "hi"})) == ("hi",) and says_gold(row(**{name: "hi"}))
    assert references_of(row(**{name: ["hi", None, "yo"]})) == ("hi", "yo")
    assert references_of(row(**{f"{name}_2": "b", f"{name}1": "a"})) == ("a", "b") and is_known(f"{name}_2")
    assert not says_gold(row(**{name: " "}))


def test_two_fields_that_differ_are_not_guessed_at() -> None:
    with pytest.raises(
        FalconerError, match="more than one field may be the reply: 'pred' holds 'a' and 'output' holds 'b'"
    ):
        prediction_of(row(pred="a", output="b"))
    with pytest.raises(FalconerError, match="more than one field may be the gold reply"):
        references_of(row(gold="a", target="b"))
    assert prediction_of(row(pred="a", output="a")) == "a"


@pytest.mark.parametrize(
    ("name", "cell", "value"),
    [
        ("persona", "['a', 'b']", ["a", "b"]),
        ("persona", " a \n\nb", ["a", "b"]),
        ("persona", "[1, 2]", ["[1, 2]"]),
        ("history", "[{'speaker': 'self', 'text': 'a'}]", [{"speaker": "self", "text": "a"}]),
        ("prediction", "['a']", "a"),
        ("prediction", "['a', 'b']", "['a', 'b']"),
        ("prediction", r"['C:\dir']", r"['C:\dir']"),  # no text that Python prints is written so
        ("reference", '["a", "b"]', ["a", "b"]),
        ("turn", "3.0", 3),
        ("turn", "", None),
        ("ended", "True", True),
        ("ended", "no", None),
        ("likelihood", "{}", None),
        ("id", " 7 ", "7"),
    ],
)
def test_a_cell_is_what_json_would_have_there(name: str, cell: str, value: Any) -> None:
    assert from_cell(name, cell) == value


def test_numbers_of_rows_dialogues_and_turns() -> None:
    assert (row_id(row(idx=3.0)), dialogue_of(row(dialog_id=7)), turn_of(row(turn=2.0))) == ("3", "7", 2)
    assert row_id(row()) is dialogue_of(row(dialogue_id=None)) is turn_of(row(turn=None)) is None
    with pytest.raises(FalconerError, match="field 'turn' is true or false"):
        turn_of(row(turn=True))


def test_what_a_model_measured_is_whole_and_finite() -> None:
    given = {"by_mean": 1, "by_sum": 2, "num_candidates": 20}
    assert measured_of(row(ranks=given), "ranks", Ranks) == Ranks(1, 2, 20)
    assert measured_of(row(), "ranks", Ranks) is None
    for wrong, message in (
        ({"by_mean": 1}, "is not an object with by_mean, by_sum, num_candidates"),
        (given | {"by_sum": "2"}, "'ranks.by_sum' is text"),
        (given | {"by_sum": float("inf")}, "'ranks.by_sum' is inf, which is not a finite number"),
    ):
        with pytest.raises(FalconerError, match=message):
            measured_of(row(ranks=wrong), "ranks", Ranks)
