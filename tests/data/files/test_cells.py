"""Lists in the cells of a table, however they are written, and in time that grows with their length alone."""

import contextlib
import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.data.files.cells import NotAList, list_in

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=5)


@given(TEXTS)
def test_what_python_prints_comes_back(texts: list[str]) -> None:
    assert list_in(repr(texts)) == texts
    assert list_in(json.dumps(texts)) == texts


@given(st.lists(st.text("ab '\"\\,[]", min_size=1, max_size=8), min_size=1, max_size=4))
def test_what_numpy_prints_comes_back(texts: list[str]) -> None:
    assert list_in(str(np.array(texts, dtype=object))) == texts


@given(st.lists(st.dictionaries(st.text("ab'", min_size=1, max_size=3), st.text("xy \"'", max_size=4)), min_size=1))
def test_lists_of_objects_come_back(rows: list[dict[str, str]]) -> None:
    assert list_in(repr(rows)) == rows
    assert list_in(json.dumps(rows)) == rows


@pytest.mark.parametrize("cell", ["[i ski]", "['a', b]", "['a'", "['a']]", "[", "", "['a' 3]", "text"])
def test_what_is_no_list_is_said_so(cell: str) -> None:
    with pytest.raises(NotAList, match="isn't a list of strings"):
        list_in(cell)


def test_strings_that_only_stand_side_by_side_are_never_glued() -> None:
    assert list_in("['a' 'b']") == ["a", "b"]
    with pytest.raises(NotAList):
        list_in("[['a' 'b'], ['c']]")


@pytest.mark.parametrize("quoted", [r"'C:\dir'", "'two\nlines'"])
def test_a_string_that_python_would_not_print_so_is_named(quoted: str) -> None:
    with pytest.raises(NotAList, match="is not a valid Python string"):
        list_in(f"[{quoted}]")


@pytest.mark.parametrize("unit", [r"\'", r"\"", "' ", "'a' ", "[['", "{'", ", ", r"'\\"])
@pytest.mark.parametrize("start", ["['", "[[", "[{'a': '", '["'])
def test_time_grows_as_the_cell_does(start: str, unit: str) -> None:
    # Eight times the characters; where each open quote is sought to the end, that takes 64 times as long.
    short, long = (min(_seconds(start + unit * times) for _ in range(3)) for times in (2_000, 16_000))
    assert long < 24 * short + 0.005


def _seconds(cell: str) -> float:
    begun = time.process_time()
    with contextlib.suppress(NotAList):
        list_in(cell)
    return time.process_time() - begun
