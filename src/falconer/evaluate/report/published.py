"""Scores of other systems on ConvAI2's validation set, for comparison with a run's own figures.

Two kinds, never mixed. `RESCORED` are replies that were scored again with the metrics of this project, on all 7,801
turns: they compare with a run that was evaluated on the same turns, and with no other. `AS_PUBLISHED` are figures of
papers under their own protocols (tokenizer, history, split, way of counting): context, not a ranking.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

_LETTERS = re.compile(r"[\W_]+")
# `gold_sha256` of valid_self_original.txt; the references beside LMEDR's published outputs have the same.
CONVAI2_VALID_SHA256 = "94891e18a02e4ee171b82872568c84c6b2545df92ab9358abb411a0db7908fc4"


@dataclass(frozen=True, slots=True)
class Published:
    """A system's figures, 0-100 (perplexity apart), None where none is known; `source` says whose they are."""

    name: str
    source: str
    bleu: float | None = None
    rouge_l: float | None = None
    f1: float | None = None
    ppl: float | None = None
    hits_at_1: float | None = None


RESCORED = (
    Published("a constant sentence", "“i am doing well . how are you ?”", 1.55, 15.89, 15.40),
    Published("echo", "repeats the partner's last turn", 1.43, 13.22, 13.94),
    Published("persona", "says a random line of its persona", 1.44, 12.73, 12.60),
    Published("GPT-2 124M, zero-shot", "model of Radford et al., 2019", 1.01, 13.01, 12.89),
    Published("GPT-Neo 2.7B, zero-shot", "model of Black et al., 2021", 1.98, 15.90, 15.96),
    Published("GPT-J 6B, zero-shot", "model of Wang and Komatsuzaki, 2021", 1.27, 13.96, 14.07),
    Published("AdapterBot", "Lin et al., 2021", 3.62, 18.93, 19.13),
    Published("LMEDR", "Chen et al., 2023; the best public outputs", 5.16, 21.24, 21.99),
)
AS_PUBLISHED = (
    Published("ConvAI2 language-model baseline", "Dinan et al., 2019; valid, word perplexity", f1=15.31, ppl=51.1),
    Published(
        "TransferTransfo", "Wolf et al., 2019; valid, history of 5 utterances", f1=19.09, ppl=17.51, hits_at_1=82.1
    ),
    Published("P2Bot", "Liu et al., 2020; valid", f1=19.77, ppl=15.12, hits_at_1=81.9),
    Published("BART-large", "fine-tuned, as reported by later papers; perplexity per BPE token", f1=20.35, ppl=10.87),
    Published("Cross-encoder", "Humeau et al., 2020; ranks candidates only", hits_at_1=90.3),
)


def is_convai2_valid(references: Iterable[str]) -> bool:
    """Say whether gold replies are the 7,801 of ConvAI2 valid, in whatever order, case and punctuation."""
    return gold_sha256(references) == CONVAI2_VALID_SHA256


def gold_sha256(references: Iterable[str]) -> str:
    """Return a hash of gold replies that depends on their letters and digits only, not on order, case or spaces."""
    return hashlib.sha256("\n".join(sorted(map(letters, references))).encode("utf-8")).hexdigest()


def letters(text: str) -> str:
    """Return the letters and digits of a text, in lower case."""
    return _LETTERS.sub("", text.lower())
