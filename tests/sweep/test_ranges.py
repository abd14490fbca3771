"""How ranges are written, and their values."""

import pytest

from falconer.errors import FalconerError
from falconer.sweep.ranges import Range, ends_of, read_range


@pytest.mark.parametrize(
    ("text", "is_whole", "expected"),
    [
        ("1e-4..1e-2:log", False, Range(1e-4, 1e-2, is_log=True)),
        ("0..0.2", False, Range(0, 0.2)),
        ("8..64", True, Range(8, 64, is_whole=True)),
        ("8..64:8", True, Range(8, 64, is_whole=True, step=8)),
        ("1..1024:log", True, Range(1, 1024, is_whole=True, is_log=True)),
    ],
)
def test_as_written(text, is_whole, expected):
    found = read_range("a.b", [text], is_whole)
    assert found == expected and read_range("a.b", [str(found)], is_whole) == found


@pytest.mark.parametrize(
    ("values", "is_whole", "message"),
    [
        (["8..x"], True, "a.b=8..x is not a range. Write LOW..HIGH; LOW..HIGH:log"),
        (["8..9.5"], True, "is not a range"),
        (["0.1..0.2:0.05"], False, "is not a range"),
        (["8..64:"], True, "is not a range"),
        (["8..64:0"], True, "is not a range"),
        (["8..64:lin"], True, "is not a range"),
        (["64..8"], True, "the low end of a range is below its high end"),
        (["8..8"], True, "the low end of a range is below its high end"),
        (["0..1:log"], False, "a logarithmic scale has no 0. Begin above 0, or write 0..1."),
        (["8..60:8"], True, "steps of 8 from 8 on don't reach 60. Write, for example, 8..64:8."),
        (["8..16", "64"], True, "a.b=8..16,64 is not one range"),
    ],
)
def test_mistakes(values, is_whole, message):
    with pytest.raises(FalconerError) as error:
        read_range("a.b", values, is_whole)
    assert message in str(error.value)


def test_ends():
    assert ends_of(["1e-4..1e-2:log"]) == ["1e-4", "1e-2"] and ends_of(["1..2", "3"]) == []


@pytest.mark.parametrize(
    ("given", "value", "text"),
    [
        (Range(1e-4, 1e-2, is_log=True), 0.000123456789, "0.0001235"),
        (Range(1e-4, 1e-2, is_log=True), 0.0099999999, "0.01"),
        (Range(0, 0.2), 0.123456789, "0.1235"),
        (Range(0.999, 0.9999), 0.99912345678, "0.9991235"),
        (Range(0.12341, 1), 0.12342, "0.12341"),  # rounded, it would be below the range
        (Range(8, 64, is_whole=True), 12, "12"),
    ],
)
def test_values_are_written_with_what_makes_a_difference(given, value, text):
    assert given.text(value) == text
    # Read and written again, they stay the same: this is how a search knows its trials.
    assert given.text(float(text)) == text and float(text) in given


def test_what_is_in_a_range_and_how_much():
    steps = Range(8, 64, is_whole=True, step=8)
    assert 16 in steps and 12 not in steps and 72 not in steps and steps.num_values == 8
    assert 0.15 in Range(0, 0.2) and 0.3 not in Range(0, 0.2) and Range(0, 0.2).num_values == float("inf")
