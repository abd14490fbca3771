"""Replies under several decodings: shares with intervals, and tests against the first, corrected together."""

from dataclasses import replace

import pytest

from falconer.evaluate.text.decodings import TESTED, compare_decodings
from falconer.evaluate.text.systems import system_of
from falconer.records import Prediction

LOOP, PLAIN = "i like dogs and i like dogs", "i like cats and you like dogs"
GOLD = "i like cats too"


def rows(said: list[str]) -> list[Prediction]:
    return [Prediction(f"d{number}", 1, text, GOLD, ended=True) for number, text in enumerate(said)]


GREEDY = rows([LOOP] * 24 + [f"{PLAIN} {n}" for n in range(16)])
APART = rows([f"{PLAIN} {n}" for n in range(40)])


def test_shares_intervals_and_tests() -> None:
    found = compare_decodings({"greedy": GREEDY, "apart": APART, "again": GREEDY}, 200, 17)
    greedy, apart, again = found.values()
    assert greedy.failures == {"phrase": 60.0, "own_turn": 0.0, "stock": 60.0}
    assert apart.failures == {"phrase": 0.0, "own_turn": 0.0, "stock": 0.0}
    low, high = greedy.intervals["phrase"]
    assert 40 < low < 60 < high < 80
    assert greedy.score == system_of("greedy", GREEDY).score and greedy.tests == ()
    tests = {test.metric: test for test in apart.tests}
    assert set(tests) <= set(TESTED) and tests["phrase"].difference == pytest.approx(-60)
    assert tests["phrase"].p_holm is not None and tests["phrase"].p <= tests["phrase"].p_holm < 0.06
    assert all(test.difference == 0 and test.p_holm == 1 for test in again.tests) and again.tests
    # Three decodings are two comparisons, so p is corrected for more tests than with one of them.
    alone = {
        test.metric: test for test in compare_decodings({"greedy": GREEDY, "apart": APART}, 200, 17)["apart"].tests
    }
    assert alone["f1"].p == pytest.approx(tests["f1"].p, abs=0.002)
    # The smallest p of each is that of no resample, one of a hundred for each test.
    assert alone["phrase"].p == pytest.approx(1 / 601) and tests["phrase"].p == pytest.approx(1 / 1201)


def test_of_many_decodings_one_can_still_be_found_to_differ() -> None:
    many = {"greedy": GREEDY, "apart": APART, **{f"again {number}": GREEDY for number in range(20)}}
    tests = {test.metric: test for test in compare_decodings(many, 100, 17)["apart"].tests}
    assert 0.005 < (tests["phrase"].p_holm or 0) < 0.011


def test_few_dialogues_are_not_tested_and_what_is_withheld_is_not_measured() -> None:
    few = [replace(row, dialogue_id="one") for row in GREEDY]
    found = compare_decodings({"greedy": few, "apart": APART[: len(few)]}, 200, 17, withheld=["bleu"])
    assert not any(one.tests for one in found.values())
    assert found["greedy"].score.bleu is None and found["greedy"].score.f1 is not None
