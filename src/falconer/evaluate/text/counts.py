"""From counts of single replies to the figures of a set: every figure here is a function of sums over the replies.

So a bootstrap resample is a weighted sum, and a thousand of them are one matrix product; no text is read twice.
distinct-n is no such function: a resample repeats replies, so it holds fewer different words.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np

from falconer.data.language import has_spaces
from falconer.evaluate.text import pairs
from falconer.evaluate.text.pairs import BLEU_ORDER, golds_of
from falconer.evaluate.text.words import clean, rouge_tokens, words
from falconer.records import Likelihood, Prediction

# Columns that serve one figure alone, where it has another name.
_FIGURE_OF = {"words": "mean_words", "persona": "persona_use", "bleu": ""}


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts of each reply, by name; what was not measured has no column.

    Args:
        columns: float64 [N] or [N, ...]. `replies` [N] is 1; `words` [N]; `bleu` [N, 10] and `chrf` [N, 3, 6] as in
            `pairs.py`; `rouge_l`, `f1` [N] (0-100); `counted` [N, 2] (1 where each gold reply of the turn has a token
            for ROUGE-L, a word for F1; left out where all turns have; where it is 0, so is `rouge_l` or `f1`); `ended`
            [N] (0 or 1); `persona` [N, 2] (uses it, has one); `bigrams` [N, 2] (repeated, all); `likelihood` [N, 5]
            (nats with and without end tokens, tokens, words, characters); `ranks` [N, 3] (gold first by mean, by sum,
            was ranked); `nli` [N, 2] (C-score, was judged).
        dialogues: the dialogue of each reply, int64 [N], numbered from 0.
    """

    columns: dict[str, np.ndarray]
    dialogues: np.ndarray

    def select(self, chosen: np.ndarray) -> "Statistics":
        """Return the chosen rows (bool [N]), their dialogues numbered anew."""
        numbers = np.unique(self.dialogues[chosen], return_inverse=True)[1]
        return Statistics({name: column[chosen] for name, column in self.columns.items()}, numbers)

    def without(self, names: Collection[str]) -> "Statistics":
        """Return the counts without those that only the named figures of `Score` need."""
        columns = {name: column for name, column in self.columns.items() if _FIGURE_OF.get(name, name) not in names}
        if "bleu" in names and "bleu" in columns:
            columns["bleu"] = shortened(columns["bleu"], 0 if "bleu_2" in names else 2)
        if "word_ppl" in names and "likelihood" in columns:
            columns["likelihood"] = columns["likelihood"] * (1, 1, 1, 0, 1)
        return replace(self, columns=columns)

    def sums(self) -> dict[str, np.ndarray]:
        """Return the sum of each column over all rows."""
        with np.errstate(over="ignore"):  # what is too large for a float64 is infinite, and nowhere written as a figure
            return {name: column.sum(axis=0) for name, column in self.columns.items()}


def statistics_of(predictions: Sequence[Prediction], language: str = "en") -> Statistics:
    """Return the counts of replies as `read_predictions` gives them; what no row tells is not measured.

    `ended` is measured only where every row tells it, words per reply only where spaces stand between words, and
    persona use only in English, since its stop words are English.
    """
    texts = [clean(row.prediction, language) for row in predictions]
    golds = [golds_of(row, language) for row in predictions]
    columns = {
        "replies": np.ones(len(predictions)),
        "bleu": pairs.bleu_counts(texts, golds, language),
        "chrf": pairs.chrf_counts(texts, golds),
        "rouge_l": np.array(pairs.rouge_l_of_each(texts, golds, language)),
        "f1": np.array([pairs.row_f1(row, language) for row in predictions]),
    }
    # Punctuation alone, say, has no word that a reply could share, and would be 0 against itself.
    counted = [[all(split(gold, language) for gold in some) for split in (rouge_tokens, words)] for some in golds]
    if not all(map(all, counted)):
        columns["counted"] = np.array(counted, dtype=np.float64)
        columns["rouge_l"] = columns["rouge_l"] * columns["counted"][:, 0]
        columns["f1"] = columns["f1"] * columns["counted"][:, 1]
    if has_spaces(language):
        columns["words"] = np.array([len(text.split()) for text in texts], dtype=np.float64)
    if all(row.ended is not None for row in predictions):
        columns["ended"] = np.array([float(bool(row.ended)) for row in predictions])
    if language == "en" and any(row.persona for row in predictions):
        used = [(bool(row.persona) and pairs.uses_persona(row.prediction, row.persona)) for row in predictions]
        columns["persona"] = np.array([used, [bool(row.persona) for row in predictions]], dtype=np.float64).T
    if any(row.said_by("self") for row in predictions):
        repeated = [pairs.repeated_bigrams(row.prediction, row.said_by("self"), language) for row in predictions]
        columns["bigrams"] = np.array(repeated, dtype=np.float64)
    if any(row.likelihood for row in predictions):
        columns["likelihood"] = _likelihood_rows(row.likelihood for row in predictions)
    if any(row.ranks for row in predictions):
        ranked = [(r.by_mean == 1, r.by_sum == 1, True) if (r := row.ranks) else (0, 0, 0) for row in predictions]
        columns["ranks"] = np.array(ranked, dtype=np.float64)
    return Statistics(columns, dialogue_numbers([row.dialogue_id for row in predictions]))


def likelihood_statistics(likelihoods: Sequence[Likelihood | None], dialogue_ids: Sequence[str]) -> Statistics:
    """Return the counts behind the perplexities of gold replies; a row of None counts nothing."""
    columns = {"replies": np.ones(len(likelihoods)), "likelihood": _likelihood_rows(likelihoods)}
    return Statistics(columns, dialogue_numbers(dialogue_ids))


def dialogue_numbers(dialogue_ids: Sequence[str]) -> np.ndarray:
    """Return each row's dialogue as a number from 0, in order of appearance, int64 [N]."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in dialogue_ids], dtype=np.int64)


def figures(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the figures of one set, or of R resamples at once, by their names in `Score`.

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
        found |= {f"bleu{key}": bleu(counts, n) for n, key in ((4, ""), (2, "_2")) if n <= _order(counts)}
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
    half = 2 + _order(counts)
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


def shortened(counts: np.ndarray, order: int) -> np.ndarray:
    """Return `pairs.bleu_counts` without the n-grams longer than `order`, [..., 2 + 2 order]."""
    half = 2 + _order(counts)
    return np.concatenate([counts[..., : 2 + order], counts[..., half : half + order]], axis=-1)


def _order(counts: np.ndarray) -> int:
    return (counts.shape[-1] - 2) // 2


def _likelihood_rows(likelihoods: Iterable[Likelihood | None]) -> np.ndarray:
    rows = [astuple(one) if one else (0,) * 5 for one in likelihoods]
    return np.array(rows, dtype=np.float64).reshape(len(rows), 5)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    unknown = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=unknown, where=np.asarray(denominator) > 0)
