"""Confidence intervals and paired tests: bootstrap over dialogues, with Holm's correction.

Replies of one dialogue share persona and history, so dialogues are resampled, not replies: at ConvAI2's 7,801 replies
that widens F1's interval from 0.38 to 0.45 on either side.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from falconer.evaluate.text.counts import Statistics
from falconer.evaluate.text.figures import figures
from falconer.run.metrics import Difference, Interval

RESAMPLES = 1000
SEED = 17
LEVEL = 95
# p of a test is at least 1 / (resamples + 1). Corrected for the number of tests, that must still be far below 0.05.
RESAMPLES_A_TEST = 100
MIN_DIALOGUES = 20  # with fewer, intervals are not reliable, and nothing is tested
# Weights held at once: 4 million are 32 MB.
_BLOCK_SIZE = 4_000_000


def bootstrap(statistics: Statistics, resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, np.ndarray]:
    """Return every figure of so many resamples of the dialogues, [R] each; the seed fixes which dialogues are sampled.

    Statistics of the same dialogues get the same resamples, so their figures can be compared pair by pair.
    """
    columns = statistics.columns
    widths = {name: int(np.prod(column.shape[1:], dtype=int)) for name, column in columns.items()}
    flat = np.concatenate([column.reshape(len(column), -1) for column in columns.values()], axis=1)
    num_dialogues = int(statistics.dialogues.max()) + 1
    by_dialogue = np.zeros((num_dialogues, flat.shape[1]))
    found: list[dict[str, np.ndarray]] = []
    with np.errstate(over="ignore"):
        np.add.at(by_dialogue, statistics.dialogues, flat)
    for weights in _draws(num_dialogues, resamples, seed):
        with np.errstate(over="ignore", invalid="ignore"):  # an infinite count that is not sampled is NaN: not measured
            drawn = weights @ by_dialogue
        parts = np.split(drawn, np.cumsum(list(widths.values()))[:-1], axis=1)
        sums = {
            name: part.reshape(len(weights), *columns[name].shape[1:])
            for name, part in zip(columns, parts, strict=True)
        }
        found.append(figures(sums))
    return {key: np.concatenate([part[key] for part in found]) for key in found[0]}


def intervals(blocks: Sequence[Statistics], resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, Interval]:
    """Return the 95 % interval (percentiles) of each figure; a later block's figure replaces an earlier one's."""
    drawn = {key: values for block in blocks for key, values in bootstrap(block, resamples, seed).items()}
    return {key: bounds for key, values in drawn.items() if (bounds := percentiles(values)) is not None}


def ratio_interval(
    numerators: np.ndarray, denominators: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED
) -> Interval | None:
    """Return the 95 % interval of the ratio of two sums over dialogues; None if there are too few of them.

    Args:
        numerators, denominators: of each dialogue, float64 [D].
    """
    if len(numerators) < MIN_DIALOGUES:
        return None
    pairs = np.stack([numerators, denominators], axis=1)
    sums = np.concatenate([weights @ pairs for weights in _draws(len(pairs), resamples, seed)])
    return percentiles(sums[:, 0] / sums[:, 1])


def differences(
    baseline: Sequence[Statistics], system: Sequence[Statistics], metrics: Sequence[str],
    resamples: int = RESAMPLES, seed: int = SEED,
) -> list[Difference]:  # fmt: skip
    """Compare two systems on the same turns by a paired bootstrap: both get the same resampled dialogues.

    p is the share of resamples whose difference lies further from the resamples' mean difference than the observed one
    from 0, two-sided (Riezler and Maxwell 2005); with one more counted above and below, it is never 0. What a model
    measured counts only at turns where it was measured for both.

    Args:
        baseline, system: blocks of statistics, the same turns in the same rows.
        metrics: figures to compare; those that either lacks are passed over.
    """
    found: dict[str, Difference] = {}
    for first, second in (both_measured(*pair) for pair in zip(baseline, system, strict=True)):
        ours, theirs = bootstrap(second, resamples, seed), bootstrap(first, resamples, seed)
        values, base_values = figures(second.sums()), figures(first.sums())
        for key in metrics:
            if key not in ours or key not in theirs:
                continue
            if not np.isfinite([values[key], base_values[key]]).all():
                continue
            with np.errstate(invalid="ignore"):
                drawn = ours[key] - theirs[key]  # infinity less infinity is not measured
            bounds = percentiles(drawn)
            observed = float(values[key] - base_values[key])
            if bounds is None:
                continue
            drawn = drawn[np.isfinite(drawn)]
            # A hair of tolerance: equal systems differ by rounding at most, and no difference is no evidence.
            further = np.abs(drawn - drawn.mean()) >= abs(observed) - 1e-9
            p = (1 + int(further.sum())) / (1 + len(drawn))
            found[key] = Difference(key, float(base_values[key]), float(values[key]), bounds[0], bounds[1], p)
    return [found[key] for key in metrics if key in found]


def enough_for(num_tests: int, resamples: int) -> int:
    """Return how many resamples tests take that are corrected together, at least as many as asked for."""
    return max(resamples, RESAMPLES_A_TEST * num_tests)


def both_measured(first: Statistics, second: Statistics) -> tuple[Statistics, Statistics]:
    """Return two systems' statistics, likelihoods and ranks counted only in the rows where both have them."""
    ours, theirs = dict(first.columns), dict(second.columns)
    for name in {"likelihood", "ranks"} & set(ours) & set(theirs):
        # Number of tokens, and whether gold was ranked: 0 says that nothing was measured.
        shared = (ours[name][:, 2] > 0) & (theirs[name][:, 2] > 0)
        ours[name], theirs[name] = (columns[name] * shared[:, None] for columns in (ours, theirs))
    return replace(first, columns=ours), replace(second, columns=theirs)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number (Holm 1979): the k-th smallest of m times m - k + 1, never falling."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for position, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - position)))
        corrected[index] = largest
    return corrected


def corrected(tests: Mapping[str, Sequence[Difference]]) -> dict[str, tuple[Difference, ...]]:
    """Return all tests with `p_holm`, corrected together."""
    flat = iter(holm([test.p for group in tests.values() for test in group]))
    return {name: tuple(replace(test, p_holm=next(flat)) for test in group) for name, group in tests.items()}


def _draws(num_dialogues: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each dialogue is sampled, float64 [at most R, D] at a time."""
    rng = np.random.default_rng(seed)
    size = max(1, _BLOCK_SIZE // num_dialogues)
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        drawn = rng.integers(num_dialogues, size=(rows, num_dialogues)) + num_dialogues * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * num_dialogues)
        yield counts.reshape(rows, num_dialogues).astype(np.float64)


def percentiles(values: np.ndarray) -> Interval | None:
    """Return the bounds between which 95 % of the measured values lie, None where one of them is infinite."""
    known = values[~np.isnan(values)]
    if not len(known) or not np.isfinite(known).all():
        return None
    low, high = np.percentile(known, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)
