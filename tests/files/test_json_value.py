"""One JSON value, or the true reason why a text is none, and where."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.files.json_value import NotJson, Refused, decode, load_value, skip_space, whole_number

ROW = json.dumps({"messages": [{"role": "user", "content": "hi \\ \u00e9"}, {"n": [1.5, None, True]}]})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize("place", range(1, len(ROW)))
def test_a_cut_off_text_is_called_so(place: int) -> None:
    with pytest.raises(NotJson, match="cut off"):
        load_value(f"[{ROW[:place]}")


@pytest.mark.parametrize("tail", ["tr", "nul", "-", "1.", "2e", "3E-", '"\\u00', '"\\u00e9', '"a\\', '{"a": ', "f"])
def test_a_cut_off_literal_or_escape_is_called_so(tail: str) -> None:
    with pytest.raises(NotJson, match="cut off"):
        load_value('{"x": [1, ' + tail)


@given(VALUES, st.text(" \t\r\n", max_size=3))
def test_every_value_comes_back_wherever_it_stands(value: object, space: str) -> None:
    text = f"{space}{json.dumps(value)}{space}"
    assert load_value(text) == value
    start = skip_space(text, 0)
    assert start == len(space) and decode(text, start) == (value, len(text) - len(space))


@pytest.mark.parametrize(
    ("text", "reason", "position"),
    [
        ('{"a": 1},', "a comma follows it", 8),
        ('{"a": 1} {"b": 2}', "a second value follows the first", 9),
        ("{'a': 1}", "a string is in single quotes", 1),
        ('{"a": None}', "None is Python", 6),
        ('{"a": "say "hi""}', "a comma is missing, or a quote inside a text is not escaped", 12),
        ("[" * 100_000, "it is nested hundreds of levels deep", 0),
        ("1" * 5000, "it contains a number with hundreds of digits", 0),
        ('{"a": [-1' + "0" * 400 + "]}", "it contains a number with hundreds of digits", 0),
    ],
)
def test_the_reason_and_its_place(text: str, reason: str, position: int) -> None:
    with pytest.raises(NotJson) as caught:
        load_value(text)
    assert caught.value.reason.startswith(reason) and caught.value.position == position


@given(st.integers(-(2**1030), 2**1030) | st.integers(2**1023, 2**1024) | st.integers(-(10**320), 10**320))
def test_an_integer_is_refused_exactly_if_no_float_can_hold_it(number: int) -> None:
    try:
        float(number)
    except OverflowError:
        with pytest.raises(Refused):
            whole_number(str(number))
        with pytest.raises(NotJson, match="larger than any floating-point number"):
            load_value(f'{{"a": [{number}]}}')
    else:
        assert whole_number(str(number)) == number == load_value(str(number))


def test_the_largest_float_is_the_border() -> None:
    largest = int(sys.float_info.max)
    assert load_value(str(-largest)) == -largest
    with pytest.raises(NotJson, match="larger than any floating-point number"):
        load_value(str(2**1024))
