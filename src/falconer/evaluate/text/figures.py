"""The figures of a set of replies, from sums over the replies of what `counts.py` counts in each.

So a bootstrap resample is a weighted sum, and a thousand of them are one matrix product; no text is read twice.
distinct-n is no such function: a resample repeats replies, so it holds fewer different words.
"""

from collections.abc import Mapping

import numpy as np

from falconer.evaluate.text.counts import ngram_order
from falconer.evaluate.text.pairs import BLEU_ORDER


def figures(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the figures of one set, or of R resamples at once, by their names in `Score`; `phrase` is none of those.

    Args:
        sums: columns of `Statistics` summed over replies, [...] or [R, ...].

    Returns:
        For each figure an array [] or [R]; NaN where nothing in a resample was measured.
    """
    replies = sums["replies"]
    found: dict[str, np.ndarray] = {}
    if "likelihood" in sums:
        nll, nll_text, num_tokens, num_words, num_chars = np.moveaxis(sums["likelihood"], -1, 0)
        with np.errstate(over="ignore"):
            found["word_ppl"] = np.exp(_ratio(nll_text, num_words))
            found["token_ppl"] = np.exp(_ratio(nll, num_tokens))
        found["bits_per_char"] = _ratio(nll_text, num_chars) / np.log(2)
    if "bleu" in sums:
        counts = sums["bleu"]
        found |= {f"bleu{key}": bleu(counts, n) for n, key in ((4, ""), (2, "_2")) if n <= ngram_order(counts)}
        found["brevity_penalty"] = brevity_penalty(counts)
        found["length_ratio"] = np.nan_to_num(_ratio(counts[..., 0], counts[..., 1]))  # gold without a token: 0
    if "chrf" in sums:
        found["chrf"] = chrf(sums["chrf"])
    for place, name in enumerate(("rouge_l", "f1")):
        if name in sums:
            found[name] = _ratio(sums[name], sums["counted"][..., place] if "counted" in sums else replies)
    if "words" in sums:
        found["mean_words"] = _ratio(sums["words"], replies)
    if "ended" in sums:
        found["ended_share"] = 100 * _ratio(sums["ended"], replies)
    if "phrase" in sums:
        found["phrase"] = 100 * _ratio(sums["phrase"], replies)
    if "persona" in sums:
        found["persona_use"] = 100 * _ratio(sums["persona"][..., 0], sums["persona"][..., 1])
    if "bigrams" in sums:
        # Replies without a single pair repeat none.
        found["repetition"] = 100 * np.nan_to_num(_ratio(sums["bigrams"][..., 0], sums["bigrams"][..., 1]))
    if "ranks" in sums:
        first_by_mean, first_by_sum, ranked = np.moveaxis(sums["ranks"], -1, 0)
        found |= {"hits_1": 100 * _ratio(first_by_mean, ranked), "hits_1_sum": 100 * _ratio(first_by_sum, ranked)}
    if "nli" in sums:
        found["c_score"] = _ratio(sums["nli"][..., 0], sums["nli"][..., 1])
    return found


def bleu(counts: np.ndarray, order: int = BLEU_ORDER) -> np.ndarray:
    """Return sacreBLEU's BLEU (0-100, exponential smoothing) from summed `pairs.bleu_counts`.

    Args:
        counts: [..., 10], or less where longer n-grams were left out.
        order: longest n-gram, 2 or 4.
    """
    half = 2 + ngram_order(counts)
    matches, totals = counts[..., 2 : 2 + order], counts[..., half : half + order]
    # The k-th order without a match counts as 1 / 2^k of a match (Chen and Cherry 2014, method 3).
    halvings = np.cumsum(matches == 0, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precisions = np.where(matches > 0, matches, 0.5**halvings) / totals
        mean = np.exp(np.log(precisions).mean(axis=-1))
    # No reply long enough for an n-gram, or no match at all: 0, as sacrebleu.
    possible = (totals > 0).all(axis=-1) & (matches > 0).any(axis=-1)
    # exp(log(1)) may come out as 1.0000000000000004.
    return np.where(possible, np.minimum(100 * brevity_penalty(counts) * np.where(possible, mean, 0), 100), 0.0)


def brevity_penalty(counts: np.ndarray) -> np.ndarray:
    """Return the factor (0-1) by which BLEU is lowered where the replies together are shorter than gold."""
    ours, gold = counts[..., 0], counts[..., 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(ours == 0, 0.0, np.exp(np.minimum(0, 1 - gold / ours)))


def chrf(counts: np.ndarray, beta: float = 2) -> np.ndarray:
    """Return sacreBLEU's chrF (0-100) from summed `pairs.chrf_counts`, [..., 3, 6]: F of the mean precision and recall.

    Only orders of which both sides have n-grams take part.
    """
    ours, gold, matches = np.moveaxis(counts, -2, 0)
    counted = (ours > 0) & (gold > 0)
    orders = np.maximum(counted.sum(axis=-1), 1)
    precision = np.where(counted, matches / np.maximum(ours, 1), 0).sum(axis=-1) / orders
    recall = np.where(counted, matches / np.maximum(gold, 1), 0).sum(axis=-1) / orders
    weighted = beta**2 * precision + recall
    return 100 * (1 + beta**2) * precision * recall / np.where(weighted > 0, weighted, 1)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    unknown = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=unknown, where=np.asarray(denominator) > 0)
