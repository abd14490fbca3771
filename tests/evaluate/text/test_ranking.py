"""hits@1: ties are losses, the order of candidates is the seed's, and the baselines are what they claim."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.errors import FalconerError
from falconer.evaluate.text.counts import statistics_of
from falconer.evaluate.text.figures import figures
from falconer.evaluate.text.ranking import gold_rank, ranking_baselines, ranks, shuffled
from falconer.records import Dialogue, Prediction, Ranks, Turn

TURN = Turn("self", " gold ", ("a", "b", "c", "d", "gold"))


def test_ties_are_losses() -> None:
    assert gold_rank(np.array([-1.0, -2.0, -0.5]), 2) == 1
    assert gold_rank(np.array([-1.0, -2.0, -1.0]), 2) == 2
    assert gold_rank(np.zeros(20), 7) == 20


def test_mean_and_sum_disagree_about_length() -> None:
    """Gold: 8 tokens, sum -8, mean -1. The other: 2 tokens, sum -4, mean -2."""
    assert ranks(np.array([-8.0, -4.0]), np.array([8, 2]), gold=0) == Ranks(1, 2, 2)


def test_not_a_number_is_an_error() -> None:
    with pytest.raises(FalconerError, match=r"the log-probability NaN.*model\.dtype=fp32"):
        ranks(np.array([-1.0, math.nan]), np.array([1, 1]), gold=0)


@given(st.lists(st.floats(-50, 0), min_size=2, max_size=20), st.data())
def test_the_order_of_candidates_does_not_matter(scores: list[float], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(scores))))
    mixed = np.array([scores[index] for index in order])
    assert gold_rank(mixed, order.index(0)) == gold_rank(np.array(scores), 0)


def test_candidates_are_shuffled_by_the_key_and_gold_is_found_again() -> None:
    texts, gold = shuffled(TURN, "17 d 1")
    assert sorted(texts) == ["a", "b", "c", "d", "gold"] and texts[gold] == "gold"
    assert shuffled(TURN, "17 d 1") == (texts, gold)
    places = {shuffled(TURN, f"17 d {turn}")[1] for turn in range(50)}
    assert places == set(range(5))


def test_hits_are_shares_of_the_ranked_turns() -> None:
    some = [Ranks(1, 2, 20), Ranks(3, 1, 20), Ranks(1, 1, 20), Ranks(1, 1, 20), None]
    found = figures(statistics_of([Prediction("d", 0, "a", "b", ranks=rank) for rank in some]).sums())
    assert (float(found["hits_1"]), float(found["hits_1_sum"])) == (75, 75)


def test_baselines_by_hand() -> None:
    """Gold of the first shares "ski" with the persona, of the second nothing; two and four candidates."""
    first = Turn("self", "we ski", ("no way", "we ski"))
    second = Turn("self", "ok then", ("we ski", "yes", "no", "ok then"))
    dialogue = Dialogue("d", ("i ski .",), (Turn("partner", "hello"), first, Turn("partner", "really ?"), second))
    assert ranking_baselines([(dialogue, 1), (dialogue, 3)]) == {"chance": 37.5, "idf_overlap": 50}
    assert ranking_baselines([]) == {}
