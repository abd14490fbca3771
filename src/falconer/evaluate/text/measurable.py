"""Which figures can be measured on a set of gold replies, and why others can't: gold against itself must score 100.

A figure that fails this could still be computed, but it would not mean what its name says.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from falconer.data.language import NAMES, has_spaces
from falconer.evaluate.text.counts import Statistics
from falconer.evaluate.text.figures import figures
from falconer.evaluate.text.pairs import BLEU_ORDER
from falconer.evaluate.text.words import words

# What a reply shares with gold; gold shares everything with itself.
OVERLAP = MappingProxyType({"bleu": "BLEU", "bleu_2": "BLEU-2", "chrf": "chrF", "rouge_l": "ROUGE-L", "f1": "F1"})
# Gold replies of punctuation alone have no word to share. So many are left out of a mean; with more of them, the
# words do not fit the language.
_MAX_WORDLESS = 0.05
_MAX_SHORT = 0.5  # of the older definitions, which are known not to be 100 for gold and say so


def not_measured(gold: Statistics, language: str) -> dict[str, str]:
    """Return, by the names of `Score`'s fields, what is not measured on these turns, and why.

    Args:
        gold: counts of the gold replies against themselves.
    """
    name = NAMES.get(language, language)
    found: dict[str, str] = {}
    if not has_spaces(language):
        reason = f"{name} has no spaces between words"
        found |= {"word_ppl": f"{reason}; use bits per character to compare tokenizers", "mean_words": reason}
    if language != "en":
        found["persona_use"] = "its list of stop words is English"
    num_rows = len(gold.dialogues)
    for key, missing in _wordless(gold).items():
        if missing > _MAX_WORDLESS * num_rows:
            found[key] = f"{missing:,} of {num_rows:,} gold replies contain no word that it counts"
    values = figures(gold.sums())
    for key in OVERLAP:
        if key not in found and not math.isclose(float(values[key]), 100, abs_tol=1e-6):
            found[key] = _why(key, float(values[key]), gold)
    return found


def remarks(gold: Statistics, reasons: Mapping[str, str]) -> list[str]:
    """Return what a reader should know of the figures that are measured on these turns."""
    num_rows = len(gold.dialogues)
    return [
        f"{OVERLAP[key]} is the mean over {num_rows - missing:,} of {num_rows:,} replies. The gold replies to the "
        "others contain no word that it counts (punctuation or emoji alone)."
        for key, missing in _wordless(gold).items()
        if missing and key not in reasons
    ]


def overflows(systems: Mapping[str, Iterable[Statistics]]) -> dict[str, str]:
    """Return the figures that are larger than a number can be written, with the reason, by the names of `Score`."""
    found: dict[str, str] = {}
    for name, blocks in systems.items():
        for block in blocks:
            for key, value in figures(block.sums()).items():
                if np.isinf(value):
                    found[key] = f"for {name} it exceeds 1.8e308, the largest 64-bit floating-point number"
    return found


def legacy_reason(golds: Sequence[str], language: str) -> str:
    """Return why the definitions of BLEU in `pairs.legacy` say nothing about these gold replies, "" where they do.

    They give a reply of fewer than four words 0, also where it is gold itself.
    """
    if language != "en":
        return "papers report it for English replies only"
    short = sum(min(len(words(text)), len(text.split())) < BLEU_ORDER for text in golds)
    many = short > _MAX_SHORT * len(golds)
    return (
        f"{short:,} of {len(golds):,} gold replies have fewer than four words, and score 0 against themselves"
        if many
        else ""
    )


def _wordless(gold: Statistics) -> dict[str, int]:
    """Return how many gold replies have no token that ROUGE-L compares, and no word that F1 does."""
    counted = gold.columns.get("counted")
    if counted is None:
        return {}
    return {key: int((counted[:, place] == 0).sum()) for place, key in enumerate(("rouge_l", "f1"))}


def _why(key: str, value: float, gold: Statistics) -> str:
    if key in ("bleu", "bleu_2") and value == 0:
        return f"no gold reply has {'four' if key == 'bleu' else 'two'} tokens"
    return f"the gold replies score {value:.2f} against themselves instead of 100"
