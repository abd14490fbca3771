"""What is counted in each reply; `figures.py` makes the figures of a set from sums of these counts."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from types import MappingProxyType

import numpy as np

from falconer.data.language import has_spaces
from falconer.evaluate.text import pairs
from falconer.evaluate.text.pairs import golds_of
from falconer.evaluate.text.words import clean, rouge_tokens, words
from falconer.records import Likelihood, Prediction

# Columns that serve one figure alone, where it has another name.
_FIGURE_OF = MappingProxyType({"words": "mean_words", "persona": "persona_use", "bleu": ""})
# Columns that need not be measured in every row, and their place that is above 0 where they are.
_WHERE_MEASURED = MappingProxyType({"likelihood": 2, "ranks": 2, "persona": 1, "bigrams": 1, "nli": 1})


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts of each reply, by name; what was not measured has no column.

    Args:
        columns: float64 [N] or [N, ...]. `replies` [N] is 1; `words` [N]; `bleu` [N, 10] and `chrf` [N, 3, 6] as in
            `pairs.py`; `rouge_l`, `f1` [N] (0-100); `counted` [N, 2] (1 where each gold reply of the turn has a token
            for ROUGE-L, a word for F1; left out where all turns have; where it is 0, so is `rouge_l` or `f1`); `ended`
            [N] (0 or 1); `persona` [N, 2] (uses it, has one); `bigrams` [N, 2] (repeated, all); `likelihood` [N, 5]
            (nats with and without end tokens, tokens, words, characters); `ranks` [N, 3] (gold first by mean, by sum,
            was ranked); `nli` [N, 2] (C-score, was judged); `phrase` [N] (0 or 1: the reply repeats a phrase), which
            only decodings are compared by.
        dialogues: the dialogue of each reply, int64 [N], numbered from 0.
    """

    columns: dict[str, np.ndarray]
    dialogues: np.ndarray

    @property
    def num_dialogues(self) -> int:
        return int(self.dialogues.max()) + 1

    def num_measured(self, name: str) -> int:
        """Return in how many dialogues a column was measured at all."""
        column = self.columns.get(name)
        if column is None:
            return 0
        return len(set(self.dialogues[column[:, _WHERE_MEASURED[name]] > 0].tolist()))

    def without_few(self, at_least: int) -> "Statistics":
        """Return the counts without the columns that were measured in fewer dialogues than that."""
        few = {name for name in _WHERE_MEASURED if 0 < self.num_measured(name) < at_least}
        return replace(self, columns={name: column for name, column in self.columns.items() if name not in few})

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


def shortened(counts: np.ndarray, order: int) -> np.ndarray:
    """Return `pairs.bleu_counts` without the n-grams longer than `order`, [..., 2 + 2 order]."""
    half = 2 + ngram_order(counts)
    return np.concatenate([counts[..., : 2 + order], counts[..., half : half + order]], axis=-1)


def ngram_order(counts: np.ndarray) -> int:
    """Return the length of the longest n-grams that `pairs.bleu_counts` hold."""
    return (counts.shape[-1] - 2) // 2


def _likelihood_rows(likelihoods: Iterable[Likelihood | None]) -> np.ndarray:
    rows = [astuple(one) if one else (0,) * 5 for one in likelihoods]
    return np.array(rows, dtype=np.float64).reshape(len(rows), 5)
