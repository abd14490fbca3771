"""Pairs of the tuned model's own sampled replies: the one that is most like the gold reply, and the least like it.

Likeness is F1, as `falconer evaluate` computes it: the words that a reply and the gold reply share. Preferring replies
with a higher score among a model's own samples is the offline form of training for the score itself (minimum risk
training, Shen et al. 2016, arXiv:1512.02433); that DPO is given the best and the worst of several samples as pairs is
from Yuan et al. 2024 (self-rewarding language models, arXiv:2401.10020, section 2.3).
"""

from collections.abc import Sequence

from falconer.evaluate.text.pairs import row_f1
from falconer.model.request import Decoding
from falconer.records import Prediction


def sampling(decoding: Decoding, number: int) -> Decoding:
    """Return how the sample of a number (from 0) is drawn: from the model's own distribution, with a seed of its own.

    Args:
        decoding: gives the length and the first seed; what else it says, such as beams, is not used.
    """
    return Decoding(
        max_new_tokens=decoding.max_new_tokens, temperature=1.0, top_p=1.0, seed=decoding.seed + number,
        stops=decoding.stops,
    )  # fmt: skip


def most_and_least_like_gold(
    drawn: Sequence[Sequence[Prediction]], language: str
) -> list[tuple[Prediction, Prediction]]:
    """Return the samples with the highest and the lowest F1 of each turn, if they differ in it; empty ones don't count.

    Args:
        drawn: samples of the same turns, in the same order in each.
    """
    found = []
    for samples in zip(*drawn, strict=True):
        scored = [(row_f1(row, language), row) for row in samples if row.prediction.strip()]
        if not scored:
            continue
        highest, lowest = max(scored, key=_score), min(scored, key=_score)
        if _score(highest) > _score(lowest):
            found.append((highest[1], lowest[1]))
    return found


def _score(one: tuple[float, Prediction]) -> float:
    return one[0]
