"""What is counted in one reply, given its gold reply, its persona and its history; text and numpy alone.

Every figure of a set follows from sums of these counts (`counts.py`), so that a set can be resampled without its
texts. BLEU's and chrF's counts come from sacrebleu, ROUGE-L from rouge-score, the legacy variants from NLTK.
"""

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import fmean
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from falconer.evaluate.text.words import bleu_tokens, clean, rouge_tokens, words
from falconer.records import Prediction

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU, CHRF

BLEU_ORDER = 4
CHRF_ORDER = 6
# The 40 most common of `words` in the gold replies of ConvAI2's validation split: whoever shares one of them with a
# persona has not used it yet. They give gold 51.2 % of replies that use their persona.
STOP_WORDS = frozenset(
    (
        "i", "you", "to", "my", "do", "is", "that", "and", "like", "it", "are", "in", "have", "am", "m", "what", "of",
        "for", "not", "love", "with", "me", "just", "but", "how", "so", "good", "your", "work", "be", "s", "at", "on",
        "well", "too", "no", "was", "about", "t", "great",
    )
)  # fmt: skip


def golds_of(row: Prediction, language: str = "en") -> list[str]:
    """Return the gold replies to a row's turn, as they are compared, the one that counts as gold itself first."""
    return [clean(text, language) for text in (row.reference, *row.other_references)]


def word_f1(prediction: str, reference: str, language: str = "en", others: Iterable[str] = ()) -> float:
    """Return `counts_f1` of the words of two replies, as ParlAI defines it.

    0 if they share none, so an empty reply scores 0 even against an empty reference. With `others`, further gold
    replies, the best of all.
    """
    predicted = Counter(words(prediction, language))
    return max(counts_f1(predicted, Counter(words(text, language))) for text in (reference, *others))


def counts_f1(ours: Counter[str], gold: Counter[str]) -> float:
    """Return the F1 (0-100) of the words two replies share, counted with repetition; 0 if they share none."""
    num_shared = (ours & gold).total()
    return 200 * num_shared / (ours.total() + gold.total()) if num_shared else 0.0


def row_f1(row: Prediction, language: str = "en") -> float:
    """Return `word_f1` of a row's reply, against the best of its gold replies."""
    return word_f1(row.prediction, row.reference, language, row.other_references)


def rouge_l_of_each(
    predictions: Iterable[str], references: Iterable[str | Sequence[str]], language: str = "en"
) -> list[float]:
    """Return ROUGE-L (F-measure x 100) of each pair, from the rouge-score package; with the Porter stemmer in English.

    Where several gold replies stand in place of one, the best counts.
    """
    from rouge_score.rouge_scorer import RougeScorer

    # A tokenizer of our own only so that each text is stemmed once, and not again for every system and baseline.
    tokenizer = SimpleNamespace(tokenize=lambda text: rouge_tokens(text, language))
    scorer = RougeScorer(["rougeL"], tokenizer=tokenizer)
    pairs = zip(references, predictions, strict=True)  # rouge-score takes the target first
    listed = (([golds] if isinstance(golds, str) else golds, reply) for golds, reply in pairs)
    return [100 * float(scorer.score_multi(golds, reply)["rougeL"].fmeasure) for golds, reply in listed]


def bleu_counts(predictions: Sequence[str], references: Sequence[Sequence[str]], language: str = "en") -> np.ndarray:
    """Return what sacrebleu counts for BLEU in each row.

    Args:
        references: the gold replies to each, one or several; with several, sacrebleu takes the length of the nearest
            and clips by the most of any.

    Returns:
        float64 [N, 10]: tokens of the reply, tokens of gold, then for n = 1..4 the n-grams that match and all n-grams
        of the reply.
    """
    # effective_order changes no count; without it, sacrebleu warns about single sentences
    scorer = bleu_scorer(language, effective_order=True)
    scores = (scorer.sentence_score(reply, golds) for reply, golds in zip(predictions, references, strict=True))
    rows = [[score.sys_len, score.ref_len, *score.counts, *score.totals] for score in scores]
    return np.array(rows, dtype=np.float64).reshape(len(rows), 2 + 2 * BLEU_ORDER)


def bleu_scorer(language: str = "en", effective_order: bool = False, max_order: int = BLEU_ORDER) -> "BLEU":
    """Return the BLEU that all figures use: lower case, the language's tokens, exponential smoothing."""
    from sacrebleu.metrics import BLEU

    # Persona-Chat spaces its full stops; `force` says that this is known, so sacrebleu does not warn about them.
    return BLEU(
        lowercase=True, tokenize=bleu_tokens(language).name, force=True,
        effective_order=effective_order, max_ngram_order=max_order,
    )  # fmt: skip


def chrf_scorer() -> "CHRF":
    """Return the chrF2 that all figures use: character n-grams up to 6, no words, lower case as BLEU."""
    from sacrebleu.metrics import CHRF

    return CHRF(char_order=CHRF_ORDER, word_order=0, lowercase=True)


def chrf_counts(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Return what sacrebleu counts for chrF in each row, from its own n-grams, against the gold reply that fits best.

    Args:
        references: the gold replies to each, one or several.

    Returns:
        float64 [N, 3, 6]: character n-grams of the reply, those of gold, and matches, for n = 1..6.
    """
    from sacrebleu.metrics.helpers import extract_all_char_ngrams

    counts = np.zeros((len(predictions), 3, CHRF_ORDER))
    for row, (reply, golds) in enumerate(zip(predictions, references, strict=True)):
        gold = golds[0]
        if len(golds) > 1:
            gold = max(golds, key=lambda text: chrf_scorer().sentence_score(reply, [text]).score)
        found = extract_all_char_ngrams(reply.lower(), CHRF_ORDER)
        wanted = extract_all_char_ngrams(gold.lower(), CHRF_ORDER)
        for order, (one, other) in enumerate(zip(found, wanted, strict=True)):
            # As sacrebleu: where gold is too short for an n-gram, the reply's do not count.
            counts[row, 0, order] = one.total() if other else 0
            counts[row, 1, order] = other.total()
            counts[row, 2, order] = sum(min(number, other[ngram]) for ngram, number in one.items() if ngram in other)
    return counts


def uses_persona(text: str, persona: Iterable[str]) -> bool:
    """Tell whether a reply shares a content word with its persona: one of `words` that is none of `STOP_WORDS`."""
    return not content_words(persona).isdisjoint(words(text))


def content_words(texts: Iterable[str]) -> frozenset[str]:
    """Return the different words of some texts without `STOP_WORDS`."""
    return frozenset(word for text in texts for word in words(text)) - STOP_WORDS


def repeated_bigrams(text: str, own: Sequence[str], language: str = "en") -> tuple[int, int]:
    """Count a reply's word pairs that its speaker has said before (See et al. 2019, external bigram repetition).

    Args:
        own: the speaker's earlier turns.

    Returns:
        (pairs that already occurred in an earlier turn of the same speaker, all pairs of the reply); (0, 0) where there
        is no such turn.
    """
    if not own:
        return 0, 0
    said = {pair for turn in own for pair in pairwise(words(turn, language))}
    pairs = list(pairwise(words(text, language)))
    return sum(pair in said for pair in pairs), len(pairs)


def distinct(texts: Iterable[str], n: int, language: str = "en") -> float:
    """Return the distinct n-grams of a whole set of replies as a share (0-100) of all its n-grams.

    Words are normalised as for F1; no n-gram crosses from one reply into the next. The share falls as the set grows:
    compare only sets of the same size. Persona-Chat's gold replies (7,801) have 6.42 and 42.80 for n = 1 and 2.
    """
    replies = (words(text, language) for text in texts)
    ngrams = [ngram for reply in replies for ngram in zip(*(reply[i:] for i in range(n)), strict=False)]
    return 100 * len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def legacy(predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> dict[str, float]:
    """Return two variants (0-100) that papers also print as "BLEU-4", of English replies; neither compares with
    sacreBLEU's.

    Keys: `parlai_bleu_4`, the mean over replies of ParlAI's BleuMetric (NLTK's sentence BLEU over `words`, zero counts
    replaced by 1e-12), and `nltk_sentence_bleu`, the mean of NLTK's sentence BLEU over white space, unsmoothed: 0 for
    every reply without a shared 4-gram.
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    parlai = SmoothingFunction(epsilon=1e-12).method1
    pairs = [([g] if isinstance(g, str) else list(g), reply) for g, reply in zip(references, predictions, strict=True)]
    with warnings.catch_warnings():
        # NLTK warns for each reply without a shared 4-gram; that is the variant's known fault, and why it is "legacy".
        warnings.simplefilter("ignore")
        smoothed = [sentence_bleu(list(map(words, g)), words(reply), smoothing_function=parlai) for g, reply in pairs]
        plain = [sentence_bleu([gold.split() for gold in g], reply.split()) for g, reply in pairs]
    return {"parlai_bleu_4": 100 * fmean(map(float, smoothed)), "nltk_sentence_bleu": 100 * fmean(map(float, plain))}
