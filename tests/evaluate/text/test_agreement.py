"""Correlations with ratings, against cases by hand."""

import numpy as np
import pytest

from falconer.errors import FalconerError
from falconer.evaluate.text.agreement import agreement, pearson, ranks, spearman


def test_ranks_share_their_mean():
    assert ranks(np.array([3.0, 1.0, 3.0, 0.0])).tolist() == [3.5, 2.0, 3.5, 1.0]


def test_correlations_by_hand():
    one, other = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 4.0, 9.0, 16.0])
    assert pearson(one, other) == pytest.approx(0.9843740, abs=1e-6)
    assert spearman(one, other) == pytest.approx(1)
    assert spearman(one, -other) == pytest.approx(-1)
    # 1 - 6 (0 + 0 + 1 + 1) / (4 * 15), without ties.
    assert spearman(one, np.array([1.0, 2.0, 4.0, 3.0])) == pytest.approx(0.8)


def test_a_constant_has_no_correlation():
    rng = np.random.default_rng(1)
    found = agreement(np.zeros(40), rng.normal(size=40), [str(i) for i in range(40)], resamples=100)
    assert (found.pearson, found.pearson_interval, found.spearman, found.spearman_interval) == (None,) * 4


def test_contexts_are_resampled():
    """Ten equal replies to a context say no more than one, so the interval does not narrow."""
    rng = np.random.default_rng(2)
    values = rng.normal(size=30)
    ratings = values + rng.normal(size=30)
    contexts = [str(i) for i in range(30)]
    once = agreement(values, ratings, contexts, resamples=400)
    tenfold = agreement(np.repeat(values, 10), np.repeat(ratings, 10), np.repeat(contexts, 10).tolist(), resamples=400)
    assert tenfold.num_contexts == once.num_contexts == 30 and tenfold.num_replies == 300
    assert tenfold.pearson == pytest.approx(once.pearson)
    assert tenfold.pearson_interval == pytest.approx(once.pearson_interval)
    low, high = once.pearson_interval
    assert low < once.pearson < high and high - low > 0.2


def test_few_replies_are_refused():
    with pytest.raises(FalconerError, match="19 rated replies are too few"):
        agreement(np.arange(19.0), np.arange(19.0), ["a"] * 19)
