"""hits@1: does a system rank the gold reply above all other candidates? With two rankers that need no model.

A candidate that scores the same as gold is ranked above it: ties count as losses, so a system that can't tell replies
apart gets 0 instead of a share by luck.
"""

import math
import random
from collections import Counter
from collections.abc import Sequence

import numpy as np

from falconer.errors import FalconerError
from falconer.evaluate.text.words import words
from falconer.records import Dialogue, Ranks, Turn


def shuffled(turn: Turn, key: str) -> tuple[list[str], int]:
    """Return a turn's candidates in an order that `key` fixes, and gold's place in it.

    Data sets put gold last; a system that sees the candidates in that order could make use of it.
    """
    candidates = [text.strip() for text in turn.candidates]
    gold = candidates.index(turn.text.strip())
    order = random.Random(key).sample(range(len(candidates)), len(candidates))
    return [candidates[index] for index in order], order.index(gold)


def gold_rank(scores: np.ndarray, gold: int) -> int:
    """Return gold's rank (1 the best) by scores [C], higher better, ties counted as losses.

    Raises:
        FalconerError: a score is not a number.
    """
    if np.isnan(scores).any():
        raise FalconerError(
            "The model gives a candidate the log-probability NaN.",
            "Evaluate with model.dtype=fp32. If the result is NaN again, the adapter is damaged.",
        )
    return int((scores >= scores[gold]).sum())


def ranks(sums: np.ndarray, num_tokens: np.ndarray, gold: int) -> Ranks:
    """Return gold's ranks by mean and by sum.

    Args:
        sums: log-probability of each candidate, its end token included, float64 [C].
        num_tokens: tokens of each, the end token included, [C].
        gold: gold's place.

    Raises:
        FalconerError: see `gold_rank`.
    """
    return Ranks(gold_rank(sums / num_tokens, gold), gold_rank(sums, gold), len(sums))


def ranking_baselines(turns: Sequence[tuple[Dialogue, int]], language: str = "en") -> dict[str, float]:
    """Return hits@1 (0-100) of `chance` and of `idf_overlap`, for turns with candidates, as (dialogue, index).

    idf overlap scores a candidate by the inverse document frequencies of the different words that it shares with the
    persona and the partner's last turn, over the square root of its number of words. A document is a candidate of these
    turns. Of the plain rankers tried on ConvAI2's validation split it is the strongest: 48.2, against 43.1 with the
    whole history and no division by length.
    """
    asked = [dialogue.turns[index] for dialogue, index in turns]
    if not asked:
        return {}
    documents = Counter(word for turn in asked for text in turn.candidates for word in set(words(text, language)))
    total = sum(len(turn.candidates) for turn in asked)
    idf = {word: math.log(total / number) for word, number in documents.items()}
    hits = 0
    for (dialogue, index), turn in zip(turns, asked, strict=True):
        last = [said.text for said in dialogue.turns[:index] if said.speaker == "partner"][-1:]
        context = {word for text in (*dialogue.persona, *last) for word in words(text, language)}
        # Added in one order, so that two candidates with the same shared words tie exactly.
        scores = [
            sum(sorted(idf[word] for word in set(said) & context)) / math.sqrt(max(1, len(said)))
            for said in (words(text, language) for text in turn.candidates)
        ]
        gold = [text.strip() for text in turn.candidates].index(turn.text.strip())
        hits += gold_rank(np.array(scores), gold) == 1
    chance = sum(1 / len(turn.candidates) for turn in asked)
    return {"chance": 100 * chance / len(asked), "idf_overlap": 100 * hits / len(asked)}
