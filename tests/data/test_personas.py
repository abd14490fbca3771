"""Sets of sentences that share a half are one persona, and finding them takes time that grows with their number."""

import time
from collections.abc import Hashable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
def test_personas_are_those_that_comparing_all_pairs_finds(personas: list[list[str]]) -> None:
    dialogues = dialogues_of(personas)
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


@pytest.mark.parametrize(("num_common", "num_own"), [(2, 3), (3, 2), (20, 2), (5, 12)])
def test_time_grows_with_the_number_of_dialogues(num_common: int, num_own: int) -> None:
    def seconds(num: int) -> float:
        dialogues = with_common_lines(num, num_common, num_own)
        start = time.process_time()
        persona_names(dialogues)
        return time.process_time() - start

    seconds(500)
    assert seconds(8000) < 32 * max(seconds(1000), 0.02), "8 times the dialogues; a square would be 64 times the time"
