"""The score of a set of replies, computed from text alone: no model, no torch.

BLEU, chrF and ROUGE-L come from sacrebleu and rouge-score, so the figures equal what their own command lines print. F1
is ParlAI's. `signatures` says exactly which variant each is: the same replies score between 1.6 and 6.9 under the five
things that are called "BLEU-4".
"""

import math
from collections.abc import Collection, Sequence
from importlib.metadata import version

from falconer.errors import FalconerError
from falconer.evaluate.text.counts import Statistics, statistics_of
from falconer.evaluate.text.figures import figures
from falconer.evaluate.text.pairs import STOP_WORDS, bleu_scorer, chrf_scorer, distinct
from falconer.evaluate.text.words import clean, rouge_signature, text_signature, words_signature
from falconer.records import Prediction, Score


def text_score(predictions: Sequence[str], references: Sequence[str], language: str = "en") -> Score:
    """Score replies against the gold replies at the same positions.

    An empty prediction scores 0 in BLEU, ROUGE-L and F1 and is counted in `num_empty`; it is never dropped.
    What needs the model, the persona or the history stays None: see `score_predictions`.

    Args:
        predictions: one reply per context.
        references: the gold reply for each, in the same order.
        language: an ISO 639 code, see `data/language.py`.

    Raises:
        FalconerError: no pairs, or not as many predictions as references.
    """
    if len(predictions) != len(references):
        raise FalconerError(
            f"There are {len(predictions):,} predictions, but {len(references):,} references.",
            "Give one prediction per reference, in the same order; an empty reply is an empty string.",
        )
    pairs = enumerate(zip(predictions, references, strict=True))
    rows = [Prediction(str(number), 0, reply, gold) for number, (reply, gold) in pairs]
    return score_predictions(rows, language)


def score_predictions(predictions: Sequence[Prediction], language: str = "en") -> Score:
    """Score predictions in everything that their rows tell: also `ended_share`, `persona_use`, perplexities, hits@1.

    Raises:
        FalconerError: there are none.
    """
    if not predictions:
        raise FalconerError("There is nothing to score.", "Give at least one pair of prediction and reference.")
    return score_of([statistics_of(predictions, language)], [row.prediction for row in predictions], language)


def score_of(blocks: Sequence[Statistics], replies: Sequence[str], language: str = "en") -> Score:
    """Return the score that counts add up to; a figure that is no finite number is not measured.

    Args:
        blocks: statistics of sets that may differ (replies generated for some turns, perplexity of all); where two
            have a figure, the later one's counts.
        replies: the texts of the first block's rows, for distinct-n and the number of empty ones.
    """
    found = {key: float(value) for block in blocks for key, value in figures(block.sums()).items()}
    return Score(
        num_replies=len(replies),
        distinct_1=distinct(replies, 1, language),
        distinct_2=distinct(replies, 2, language),
        num_empty=sum(not clean(text, language).strip() for text in replies),
        **{key: value if math.isfinite(value) else None for key, value in found.items()},
    )


def signatures(language: str = "en", num_references: Collection[int] = (1,)) -> dict[str, str]:
    """Return which variant of each metric is computed, and by which version of which library.

    Args:
        num_references: the numbers of gold replies that turns have.
    """
    bleu, bleu_2, chrf = bleu_scorer(language), bleu_scorer(language, max_order=2), chrf_scorer()
    most = max(num_references)
    # sacrebleu knows the number of references only after a first score; some turns may lack some.
    references = [["a", "a" if number < min(num_references) else None] for number in range(most)]
    for scorer in (bleu, bleu_2, chrf):
        scorer.corpus_score(["a", "a"], references)  # type: ignore[arg-type]
    words = words_signature(language)
    best = "" if most == 1 else f"|refs:best of {most if len(set(num_references)) == 1 else f'up to {most}'}"
    found = {
        "text": f"language:{language}|{text_signature(language)}",
        "bleu": str(bleu.get_signature()),
        "bleu_2": f"{bleu_2.get_signature()}|max_ngram_order:2",
        "chrf": str(chrf.get_signature()),
        "rouge_l": f"{rouge_signature(language)}{best}",
        "f1": f"{'parlai|' if language == 'en' else ''}{words}|overlap:multiset|agg:mean{best}",
        "distinct": f"{words}|ngrams:within a reply|over:the whole set",
        "persona_use": f"words:as f1|stop words:{len(STOP_WORDS)}|share of replies with a content word of the persona",
        "repetition": "words:as f1|share of bigrams that already occurred in an earlier turn of the same speaker|"
        "over:the whole set",
        "word_ppl": "words:between white space|words of the original gold text, before data.text changes it",
        "hits_1": "token log-probability, end token included|hits_1:mean|hits_1_sum:sum|ties:losses",
        "legacy": f"parlai_bleu_4:nltk method1 epsilon 1e-12|nltk_sentence_bleu:unsmoothed|version:{version('nltk')}",
    }
    if language != "en":
        del found["legacy"]
    return found
