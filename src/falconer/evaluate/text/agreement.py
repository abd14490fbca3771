"""Whether figures of single replies agree with what people think of them: correlations with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from falconer.errors import FalconerError
from falconer.evaluate.text.bootstrap import LEVEL, RESAMPLES, SEED
from falconer.run.metrics import Interval

# Fewer say nothing.
_FEWEST_REPLIES = 20


@dataclass(frozen=True, slots=True)
class Agreement:
    """Correlations of a figure with ratings over n replies, each with its 95 % interval; contexts are resampled.

    None where the figure, or the rating, is the same for all replies.
    """

    num_replies: int
    num_contexts: int
    pearson: float | None
    pearson_interval: Interval | None
    spearman: float | None
    spearman_interval: Interval | None


def agreement(
    values: np.ndarray, ratings: np.ndarray, contexts: Sequence[str], resamples: int = RESAMPLES, seed: int = SEED
) -> Agreement:
    """Correlate a figure with the ratings of the same replies.

    Replies to one context are rated alike, so contexts are resampled.

    Args:
        values, ratings: of each reply, float64 [N].
        contexts: of each reply; equal texts are one context.

    Raises:
        FalconerError: too few replies.
    """
    if len(values) < _FEWEST_REPLIES:
        raise FalconerError(f"{len(values)} rated replies are too few.", f"Give at least {_FEWEST_REPLIES}.")
    names = np.unique(np.array(contexts), return_inverse=True)[1]
    members = [np.flatnonzero(names == number) for number in range(int(names.max()) + 1)]
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        rows = np.concatenate([members[number] for number in rng.integers(len(members), size=len(members))])
        drawn.append((pearson(values[rows], ratings[rows]), spearman(values[rows], ratings[rows])))
    linear, ranked = np.array(drawn, dtype=np.float64).T  # None becomes NaN
    return Agreement(
        len(values), len(members), pearson(values, ratings), _interval(linear), spearman(values, ratings),
        _interval(ranked),
    )  # fmt: skip


def pearson(one: np.ndarray, other: np.ndarray) -> float | None:
    """Return Pearson's correlation of two series; None if one of them is constant."""
    one, other = one - one.mean(), other - other.mean()
    size = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / size if size > 1e-12 else None


def spearman(one: np.ndarray, other: np.ndarray) -> float | None:
    """Return Spearman's rank correlation; equal values share their mean rank."""
    return pearson(ranks(one), ranks(other))


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks of values from 1, equal ones with the mean of theirs, float64 [N]."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[places], dtype=np.float64)


def _interval(drawn: np.ndarray) -> Interval | None:
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return None
    low, high = np.percentile(known, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)
