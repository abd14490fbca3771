"""A field is what it should be, or the error says where it stands, what it is, and what to do; rows come clean."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.data.files.row import RowError
from falconer.data.formats import rows
from falconer.data.formats.rows import Quirks
from falconer.records import Dialogue, Turn

CONTROL = "text with control characters, which were removed"
HELLO = Dialogue("d", (), (Turn("self", "hello"),))


def test_each_row_is_parsed_and_a_bad_one_is_yielded_with_its_line() -> None:
    def parse_one(line: int, row: dict[str, Any]) -> Iterator[Dialogue]:
        if "bad" in row:
            raise RowError("bad", "is there.", line=row["bad"])
        yield HELLO
        yield HELLO

    before = RowError("row", "is no JSON.", line=2)
    found = list(rows.each([(1, {}), before, (3, {"bad": 0}), (4, {"bad": 7}), (5, []), (6, {})], parse_one))
    assert [type(item) for item in found] == [Dialogue] * 2 + [RowError] * 4 + [Dialogue] * 2
    errors = [item for item in found if isinstance(item, RowError)]
    assert errors[0] is before
    # The row's line, unless the parser knows a better one.
    assert [(error.field, error.line) for error in errors] == [("row", 2), ("bad", 3), ("bad", 7), ("row", 5)]
    assert errors[3].message == "is a list; expected an object with named fields, {...}."


@pytest.mark.parametrize("text", ["as it is", "tab\there\nand break", "next\x85line"])
def test_a_text_without_anything_to_clean_stays(text: str) -> None:
    quirks: Quirks = Counter()
    assert rows.clean_text(text, quirks) == text and not quirks[CONTROL]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb\r\r\nc", "a\nb\nc"),
        ("old\rMacintosh", "old\nMacintosh"),
        ("a\rb\nc", "a b\nc"),
        ("page\x0cfeed\x0bhere", "page feed here"),
    ],
)
def test_every_line_break_is_one_character(text: str, expected: str) -> None:
    quirks: Quirks = Counter()
    assert rows.clean_text(text, quirks) == expected and not quirks[CONTROL]


@pytest.mark.parametrize(("text", "expected"), [("\x1b[31mred\x1b[0m", "[31mred[0m"), ("\x00a\x9fb\x7f", "ab")])
def test_what_only_a_terminal_reads_is_removed_and_counted_once_a_text(text: str, expected: str) -> None:
    quirks: Quirks = Counter()
    assert rows.clean_text(text, quirks) == expected and quirks[CONTROL] == 1


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_a_clean_text_is_clean(text: str) -> None:
    once = rows.clean_text(text, Counter())
    quirks: Quirks = Counter()
    assert rows.clean_text(once, quirks) == once and not quirks[CONTROL]
    assert "\r" not in once
    # Nothing a reader sees is lost.
    assert [one for one in once if one.isprintable() and one != " "] == [
        one for one in text if one.isprintable() and one != " "
    ]


def test_every_text_of_a_row_is_cleaned_and_what_is_no_text_stays() -> None:
    quirks: Quirks = Counter()
    value = {"a": ["x\x00", {"b": "y\r\nz", "n": 3}], "none": None, "é": "é"}
    assert rows.clean((7, value), quirks) == (7, {"a": ["x", {"b": "y\nz", "n": 3}], "none": None, "é": "é"})
    assert value["a"] == ["x\x00", {"b": "y\r\nz", "n": 3}], "the row that was read is as it was"
    assert quirks[CONTROL] == 1
    error = RowError("x", "y", 3)
    assert rows.clean(error, quirks) is error


def test_what_is_no_character_and_what_has_no_end_is_an_error() -> None:
    half = rows.clean((4, {"turns": [{"text": "ok"}, {"text": "a\ud83d"}]}), Counter())
    assert isinstance(half, RowError) and (half.line, half.field) == (4, "turns[1].text")
    assert "half of a surrogate pair" in half.message
    deep: Any = "end"
    for _ in range(51):
        deep = [deep]
    assert not isinstance(rows.clean((1, deep[0]), Counter()), RowError)
    too_deep = rows.clean((1, [deep]), Counter())
    assert isinstance(too_deep, RowError) and "more than 50 levels deep" in too_deep.message


@pytest.mark.parametrize("value", [None, math.nan, "", " \n", [], {}, ()])
def test_blank(value: Any) -> None:
    assert rows.is_blank(value)


@pytest.mark.parametrize("value", [0, False, 0.0, "x", [None], {"a": None}])
def test_not_blank(value: Any) -> None:
    assert not rows.is_blank(value)


def test_a_field_that_is_missing_says_what_is_there() -> None:
    assert rows.get({"a": 0}, "a") == 0
    with pytest.raises(
        RowError, match=r"^turns\[2\]\.text is missing\. The row has 'txet', 'role'\. Rename 'txet' to 'text'\.$"
    ):
        rows.get({"txet": "x", "role": "self"}, "text", "turns[2].")
    with pytest.raises(RowError, match=r"is missing\. The row is empty\.$"):
        rows.get({}, "text")
    with pytest.raises(RowError, match=r"^text is null; expected a value\.$"):
        rows.get({"text": None}, "text")
    with pytest.raises(RowError, match="NaN, an empty cell"):
        rows.get({"text": math.nan}, "text")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, 2], [1, 2]),
        (("a",), ["a"]),
        ('["a", "b"]', ["a", "b"]),
        ("['a', 'b']", ["a", "b"]),
        (" ['a' 'b']", ["a", "b"]),
        ({"role": ["u", "a"], "text": ["1", "2"]}, [{"role": "u", "text": "1"}, {"role": "a", "text": "2"}]),
    ],
)
def test_lists_however_they_are_kept(value: Any, expected: list[Any]) -> None:
    assert rows.as_list(value, "x") == expected


@pytest.mark.parametrize("value", ["a, b", 3, None, {"one": ["a"]}, {"a": ["1", "2"], "b": ["1"]}, {"a": 1, "b": 2}])
def test_what_is_no_list(value: Any) -> None:
    assert not rows.is_columns(value)
    with pytest.raises(RowError, match=r"^x is .*; expected a list"):
        rows.as_list(value, "x")


def test_texts_lines_and_sentences() -> None:
    assert rows.as_text("  two words\n", "x") == "two words"
    for value, said in (
        (3, "is a number; expected text"),
        (" \n", "is empty"),
        ("a\x1b[0m", r"control character '\\x1b'"),
    ):
        with pytest.raises(RowError, match=said):
            rows.as_text(value, "x")
    assert rows.lines(" a \n\n b\n ") == ("a", "b")
    assert rows.sentences(["I ski.\n I sing. ", " ", "I run."], "persona") == ("I ski.", "I sing.", "I run.")
    with pytest.raises(RowError, match=r"^persona\[1\] is a number; expected a sentence"):
        rows.sentences(["I ski.", 5], "persona")


def test_the_names_of_the_two_sides() -> None:
    assert {rows.speaker(name, "role") for name in ("assistant", " GPT ", "self", "Bot")} == {"self"}
    assert {rows.speaker(name, "role") for name in ("user", "Human", "partner", "prompter")} == {"partner"}
    with pytest.raises(RowError, match=r"^role is 'asistant', an unknown role\. Did you mean 'assistant'"):
        rows.speaker("asistant", "role")


def test_the_reply_is_among_its_candidates() -> None:
    for turn in (Turn("self", "a"), Turn("self", "a", ("b", "a"))):
        assert rows.check_candidates(turn, "x") is turn
    with pytest.raises(RowError, match="do not include the reply 'a'"):
        rows.check_candidates(Turn("self", "a", ("b", "A")), "x")


@given(st.lists(st.tuples(st.sampled_from(("self", "partner")), st.booleans()), max_size=6))
def test_a_dialogue_is_kept_if_some_whole_reply_is_learned(sides: list[tuple[Any, bool]]) -> None:
    turns = [Turn(side, "x", is_learned=is_learned) for side, is_learned in sides]
    # The same in other words: letters of replies, "S" learned and "s" not, cut at the partner's turns.
    drawn = "".join("-" if side == "partner" else "S" if learned else "s" for side, learned in sides).split("-")
    if any(run and "s" not in run for run in drawn):
        assert rows.check_replies(turns, "turns") == tuple(turns)
    else:
        with pytest.raises(RowError, match="contain no reply to learn"):
            rows.check_replies(turns, "turns")
