"""Which figures describe a set of replies, computed from text alone: no model, no torch.

BLEU and ROUGE-L come from sacrebleu and rouge-score, so the numbers equal what their own command lines print. F1 is
ParlAI's, written out here because the original sits in a framework. `signatures` says exactly which variant each is:
the same replies score between 1.6 and 6.9 under the five things that are called "BLEU-4".
"""

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from statistics import fmean
from typing import TYPE_CHECKING

from falconer.errors import FalconerError
from falconer.records import Score

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU

_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}]")
_ARTICLE = re.compile(r"\b(a|an|the)\b")


def text_score(predictions: Sequence[str], references: Sequence[str]) -> Score:
    """Score replies against the gold replies at the same positions.

    An empty prediction scores 0 in BLEU, ROUGE-L and F1 and is counted in `num_empty`; it is never dropped.
    `ended_share` and the perplexities stay None: they need the model.

    Args:
        predictions: one reply per context.
        references: the gold reply for each, in the same order.

    Raises:
        FalconerError: no pairs, or not as many predictions as references.
    """
    if len(predictions) != len(references):
        raise FalconerError(
            f"There are {len(predictions):,} predictions for {len(references):,} references.",
            "Give one prediction per reference, in the same order; an empty reply is an empty string.",
        )
    if not predictions:
        raise FalconerError("There is nothing to score.", "Give at least one pair of prediction and reference.")
    bleu = _bleu().corpus_score(predictions, [references])
    return Score(
        num_replies=len(predictions),
        bleu=min(bleu.score, 100.0),  # exp(log(100)) may come out as 100.00000000000004
        brevity_penalty=bleu.bp,
        length_ratio=bleu.ratio,
        rouge_l=fmean(rouge_l_of_each(predictions, references)),
        f1=fmean(map(word_f1, predictions, references)),
        distinct_1=distinct(predictions, 1),
        distinct_2=distinct(predictions, 2),
        mean_words=fmean(len(text.split()) for text in predictions),
        num_empty=sum(not text.strip() for text in predictions),
    )


def rouge_l_of_each(predictions: Iterable[str], references: Iterable[str]) -> list[float]:
    """Return ROUGE-L (F-measure x 100, Porter stemmer) of each pair, from the rouge-score package."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    pairs = zip(references, predictions, strict=True)  # rouge-score takes the target first
    return [100 * float(scorer.score(target, prediction)["rougeL"].fmeasure) for target, prediction in pairs]


def word_f1(prediction: str, reference: str) -> float:
    """Return the F1 (0-100) of the words two replies share, counted with repetition, as ParlAI defines it.

    0 if they share none, so an empty reply scores 0 even against an empty reference.
    """
    predicted, gold = _words(prediction), _words(reference)
    num_shared = (Counter(predicted) & Counter(gold)).total()
    return 200 * num_shared / (len(predicted) + len(gold)) if num_shared else 0.0


def distinct(texts: Iterable[str], n: int) -> float:
    """Return the distinct n-grams of a whole set of replies as a share (0-100) of all its n-grams.

    Words are normalised as for F1; no n-gram crosses from one reply into the next. The share falls as the set grows:
    compare only sets of the same size. Persona-Chat's gold replies (7,801) have 6.42 and 42.80 for n = 1 and 2.
    """
    words = map(_words, texts)
    ngrams = [tuple(reply[i : i + n]) for reply in words for i in range(len(reply) - n + 1)]
    return 100 * len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def signatures() -> dict[str, str]:
    """Return which variant of each metric is computed, and by which version of which library."""
    bleu = _bleu()
    bleu.corpus_score(["a"], [["a"]])  # sacrebleu knows the number of references only after a first score
    return {
        "bleu": str(bleu.get_signature()),
        "rouge_l": f"rougeL|fmeasure|stem:porter|tok:default|agg:mean|version:{version('rouge-score')}",
        "f1": "parlai|case:lc|punct:space|articles:dropped|overlap:multiset|agg:mean",
        "distinct": "case:lc|punct:space|articles:dropped|ngrams:within a reply|over:the whole set",
    }


def _bleu() -> "BLEU":
    from sacrebleu.metrics import BLEU

    # Persona-Chat spaces its full stops; `force` says that this is known, so sacrebleu does not warn about them.
    return BLEU(lowercase=True, tokenize="13a", force=True)


def _words(text: str) -> list[str]:
    # Punctuation becomes a space and is not deleted: "i'm" is the two words "i" and "m".
    return _ARTICLE.sub(" ", _PUNCTUATION.sub(" ", text.lower())).split()
