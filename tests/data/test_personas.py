"""Sets of sentences that share a half are one persona, and finding them takes time that grows with their number."""

import sys
from collections.abc import Callable, Hashable, Sequence
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.data import personas
from falconer.data.leakage import sentence_set
from falconer.data.personas import groups, persona_names
from falconer.records import Dialogue, Turn

TURNS = (Turn("partner", "hi"), Turn("self", "yo"))


def dialogues_of(personas: Sequence[Sequence[str]]) -> list[Dialogue]:
    return [Dialogue(str(index), tuple(persona), TURNS) for index, persona in enumerate(personas)]


def by_pairs(dialogues: Sequence[Dialogue]) -> dict[frozenset[str], int]:
    """Compare every set with every other one."""
    sets = sorted({sentence_set(d.persona) for d in dialogues} - {frozenset()}, key=sorted)
    links: list[list[Hashable]] = [[("set", index)] for index in range(len(sets))]
    for one, first in enumerate(sets):
        for other, second in enumerate(sets):
            if 2 * len(first & second) >= min(len(first), len(second)):
                links[other].append(("set", one))
    return dict(zip(sets, groups(links), strict=True))


@given(st.lists(st.lists(st.sampled_from("abcdefghijklmnopqrstuvwx"), min_size=1, max_size=16), max_size=12))
def test_personas_are_those_that_comparing_all_pairs_finds(given_personas: list[list[str]]) -> None:
    dialogues = dialogues_of(given_personas)
    assert persona_names(dialogues) == by_pairs(dialogues)


def with_common_lines(num: int, num_common: int, num_own: int) -> list[Dialogue]:
    common = [f"Rule {rule}: be kind." for rule in range(num_common)]
    return dialogues_of([[*common, *(f"I have {n} dogs, as {own}." for own in range(num_own))] for n in range(num)])


@pytest.mark.parametrize(
    ("num_common", "num_own", "num_personas"), [(2, 3, 600), (3, 2, 1), (20, 2, 1), (12, 13, 600), (1, 1, 1)]
)
def test_lines_that_all_personas_have(num_common: int, num_own: int, num_personas: int) -> None:
    names = persona_names(with_common_lines(600, num_common, num_own))
    assert len(set(names.values())) == num_personas


def lines_run(dialogues: list[Dialogue]) -> int:
    """Return how many lines of personas.py are run, each turn of a loop counted."""
    count = 0

    def each(frame: FrameType, event: str, _: object) -> Callable[..., Any]:
        nonlocal count
        count += event == "line"
        return each

    def of_file(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        return each if frame.f_code.co_filename == personas.__file__ else None

    before = sys.gettrace()
    sys.settrace(of_file)
    try:
        persona_names(dialogues)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(("num_common", "num_own"), [(2, 3), (3, 2), (20, 2), (5, 12)])
def test_work_grows_with_the_number_of_dialogues(num_common: int, num_own: int) -> None:
    few, many = (lines_run(with_common_lines(num, num_common, num_own)) for num in (500, 2000))
    assert many < 5 * few, "4 times the dialogues; a square would be 16 times the work"
