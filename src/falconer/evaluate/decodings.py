"""Other decodings: what `falconer evaluate --decodings` compares the replies of an evaluation's own decoding with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from falconer.model.engine import Decoding
from falconer.records import Prediction

_PENALTY = MappingProxyType[str, Any]({"repetition_penalty": 1.1})
_OWN_PENALTY = MappingProxyType[str, Any]({"repetition_penalty": 1.1, "repetition_penalty_scope": "own"})
_NGRAM = MappingProxyType[str, Any]({"no_repeat_ngram_size": 3})
_OWN_NGRAM = MappingProxyType[str, Any]({"no_repeat_ngram_size": 3, "no_repeat_ngram_scope": "own"})
_WARM = MappingProxyType[str, Any]({"temperature": 0.7, "top_p": 0.9})
_COOL = MappingProxyType[str, Any]({"temperature": 0.5, "top_p": 0.9})
_MIN_P = MappingProxyType[str, Any]({"temperature": 1.0, "min_p": 0.3})
_BEAMS = MappingProxyType[str, Any]({"num_beams": 4})

# What each one has beyond greedy decoding.
DECODINGS: tuple[Mapping[str, Any], ...] = tuple(
    MappingProxyType({name: value for part in parts for name, value in part.items()})
    for parts in (
        (), (_PENALTY,), (_OWN_PENALTY,), (_NGRAM,), (_OWN_NGRAM,), (_OWN_NGRAM, _OWN_PENALTY),
        (_MIN_P, _OWN_NGRAM), (_WARM,), (_WARM, _PENALTY), (_WARM, _NGRAM), (_WARM, _OWN_NGRAM),
        (_COOL, _OWN_NGRAM), (_COOL, _OWN_NGRAM, _OWN_PENALTY), (_BEAMS,), (_BEAMS, _OWN_NGRAM),
    )
)  # fmt: skip


def other_decodings(own: Decoding) -> list[Decoding]:
    """Return the decodings to compare an evaluation's own one with, of the same length and seed."""
    plain = Decoding(max_new_tokens=own.max_new_tokens, seed=own.seed)
    return [one for one in (replace(plain, **changes) for changes in DECODINGS) if str(one) != str(own)]


def run_decodings(
    reply: Callable[[str, Decoding], Sequence[Prediction]],
    own: Decoding,
    others: Sequence[Decoding],
    replies: Sequence[Prediction],
) -> dict[str, Sequence[Prediction]]:
    """Return the model's replies by decoding, in words; the evaluation's own one first.

    Args:
        reply: generates the replies to all turns, given a name for the progress bar and the decoding.
        others: from `other_decodings`.
        replies: those of the evaluation's own decoding.
    """
    found = {str(own): replies}
    for number, one in enumerate(others, 1):
        found[str(one)] = reply(f"decoding {number} of {len(others)}", one)
    return found
