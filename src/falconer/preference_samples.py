"""Pairs of the tuned model's own sampled replies to a turn: the best of them, and the worst.

A sample is worth as much as it is like the gold reply and like the other samples. Its mean likeness to samples of the
model's own distribution estimates its expected likeness to a reply that a person might give, by which minimum Bayes
risk decoding chooses a reply (Eikema and Aziz 2022, arXiv:2108.04718); one gold reply alone is a poor estimate. To
train on the samples that such a choice ranks first and last as pairs of DPO is from Yang et al. 2024
(arXiv:2311.08380): greedy decoding then gives what otherwise needs many samples for each reply.

Likeness is F1, as `falconer evaluate` computes it, times BLEU's brevity penalty (Papineni et al. 2002), since F1 alone
prefers short replies.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from falconer.evaluate.text.figures import brevity_penalty
from falconer.evaluate.text.pairs import counts_f1
from falconer.evaluate.text.words import words
from falconer.model.request import Decoding
from falconer.records import Prediction


def sampling(decoding: Decoding) -> Decoding:
    """Return how samples are drawn: from the model's own distribution.

    Args:
        decoding: gives the length and the seed; what else it says, such as beams, is not used.
    """
    return Decoding(
        max_new_tokens=decoding.max_new_tokens, temperature=1.0, top_p=1.0, seed=decoding.seed, stops=decoding.stops
    )


def best_and_worst(
    drawn: Sequence[Sequence[Prediction]], language: str, gold_share: float
) -> list[tuple[Prediction, Prediction]]:
    """Return the samples of each turn that are worth most and least, if they differ in it; empty ones don't count.

    Args:
        drawn: the samples of each turn.
        gold_share: as prefer.gold_share.
    """
    found = []
    for samples in drawn:
        rows = [row for row in samples if row.prediction.strip()]
        if not rows:
            continue
        values = worths(rows, language, gold_share)
        highest, lowest = max(values), min(values)
        if highest > lowest:
            found.append((rows[values.index(highest)], rows[values.index(lowest)]))
    return found


def worths(rows: Sequence[Prediction], language: str, gold_share: float) -> list[float]:
    """Return what each of some samples of one turn is worth, 0 to 100.

    That is gold_share * (its likeness to gold) + (1 - gold_share) * (its mean likeness to the other samples). Where
    there are several gold replies, the one that it is most like counts.
    """
    texts = [*(row.prediction for row in rows), rows[0].reference, *rows[0].other_references]
    counts = [Counter(words(text, language)) for text in texts]
    f1 = np.array([[counts_f1(one, other) for other in counts] for one in counts[: len(rows)]])
    sizes = np.array([one.total() for one in counts])
    lengths = np.stack(np.broadcast_arrays(sizes[: len(rows), None], sizes), axis=-1)
    found = []
    for place, likeness in enumerate(f1 * brevity_penalty(lengths)):
        others = np.delete(likeness[: len(rows)], place)
        # Whatever the order of the samples, those that are equal are worth the same.
        to_others = math.fsum(others) / len(others) if len(others) else 0.0
        found.append(gold_share * float(likeness[len(rows) :].max()) + (1 - gold_share) * to_others)
    return found
