"""What values are called in messages."""

from datetime import date

import pytest

from falconer.data.files.row import RowError, kind_of, shown


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({}, "an object"), ([], "a list"), ("", "text"), (True, "true or false"), (0, "a number"), (0.5, "a number"),
        (float("nan"), "NaN, an empty cell"), (None, "null"), (date(2020, 1, 1), "a date"),
    ],
)  # fmt: skip
def test_kinds(value: object, kind: str) -> None:
    assert kind_of(value) == kind


def test_a_long_value_is_cut_and_no_terminal_obeys_one() -> None:
    assert shown("i ski") == "'i ski'"
    assert shown("\x1b[2J\n") == r"'\x1b[2J\n'"
    assert shown("a" * 80) == repr("a" * 80) and shown("a" * 81) == repr("a" * 77 + "...")
    assert len(shown(["a"] * 200, 60)) == 60


def test_an_error_names_the_field() -> None:
    error = RowError("turns[3].text", "is empty.", 7)
    assert (error.field, error.message, error.line) == ("turns[3].text", "is empty.", 7)
    assert str(error) == "turns[3].text is empty."
