"""Failures that show in a reply's text alone, and how often they occur, beside the rate of the gold replies.

A failure here is a fact about a text, not a judgement: people also say "i like it too" twice, which is why every rate
is to be compared with that of the gold replies.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from falconer.data.language import has_spaces
from falconer.evaluate.text.pairs import row_f1
from falconer.evaluate.text.words import clean, words
from falconer.records import Prediction

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")  # "i'm" is one word: "i'm a" said twice is no repeated phrase
_PHRASE_WORDS = 3  # as in the blocking of repeated trigrams that summarisers use (Paulus et al., 2017)
_PHRASE_CHARACTERS = 6  # of scripts without spaces, where a word has about two


@dataclass(frozen=True, slots=True)
class Failure:
    """A way to go wrong: its key, its name in a table, and what exactly is counted."""

    key: str
    label: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Rate:
    """How often a failure occurs; `shares` (0-100) by system, None where it was not measured."""

    failure: Failure
    shares: Mapping[str, float | None]


FAILURES = (
    Failure(
        "not_ended", "no end token", "cut at a line break or at the limit: the model did not generate its end token"
    ),
    Failure("empty", "empty", "no text at all"),
    Failure("own_turn", "repeats an own turn", "the same words as an earlier turn of the same speaker"),
    Failure("partner_turn", "copies the partner", "the same words as a turn of the partner"),
    Failure("persona_line", "recites the persona", "the same words as a sentence of the persona"),
    Failure(
        "phrase",
        "repeats a phrase",
        f"{_PHRASE_WORDS} consecutive words that occur twice in the reply ({_PHRASE_CHARACTERS} characters in scripts "
        "without spaces)",
    ),
    Failure("stock", "stock reply", "the same words as the reply at another turn"),
    Failure("nothing_shared", "no overlap with gold", "no word in common with the gold reply: F1 is 0"),
)


def find_failures(predictions: Sequence[Prediction], language: str = "en") -> list[frozenset[str]]:
    """Return the keys of each reply's failures, in the order of the replies.

    Replies are compared by their words: case, punctuation and spaces do not count. An empty reply is only "empty" (and
    "not_ended", if it was cut), so that it is not also counted as a copy.
    """
    replies = [_words(row.prediction, language) for row in predictions]
    times = Counter(replies)
    pairs = zip(predictions, replies, strict=True)
    return [frozenset(_failures(row, said, times[said], language)) for row, said in pairs]


def failure_rates(systems: Mapping[str, Sequence[Prediction]], language: str = "en") -> list[Rate]:
    """Return how often each system fails in each way, and under "gold" how often the gold replies do.

    A failure that nobody has is left out, and so is "did not end" where no row says how it ended.
    """
    if not systems:
        return []
    rows = next(iter(systems.values()))
    gold = [replace(row, prediction=row.reference, ended=None) for row in rows]
    found = {name: find_failures(rows, language) for name, rows in {**systems, "gold": gold}.items()}
    rates = []
    for failure in FAILURES:
        shares: dict[str, float | None] = {
            name: 100 * sum(failure.key in one for one in each) / len(each) for name, each in found.items()
        }
        if failure.key == "not_ended":
            shares |= {name: None for name, rows in systems.items() if all(row.ended is None for row in rows)}
            shares["gold"] = None
        if any(shares.values()):
            rates.append(Rate(failure, shares))
    return rates


def _failures(row: Prediction, said: tuple[str, ...], times: int, language: str) -> list[str]:
    ended = ["not_ended"] if row.ended is False else []
    if not clean(row.prediction, language).strip():
        return [*ended, "empty"]
    # A reply of punctuation alone has no words to compare.
    own, partner, persona = (
        [_words(text, language) for text in texts]
        for texts in (row.said_by("self"), row.said_by("partner"), row.persona)
    )
    length = _PHRASE_WORDS if has_spaces(language) else _PHRASE_CHARACTERS
    phrases = [said[i : i + length] for i in range(len(said) - length + 1)]
    checks = {
        "own_turn": bool(said) and said in own,
        "partner_turn": bool(said) and said in partner,
        "persona_line": bool(said) and said in persona,
        "phrase": len(set(phrases)) < len(phrases),
        "stock": times > 1,
        "nothing_shared": row_f1(row, language) == 0,
    }
    return [*ended, *(key for key, is_so in checks.items() if is_so)]


def _words(text: str, language: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(clean(text).lower())) if language == "en" else words(text, language)
