"""Converting between Persona-Chat's lower-case, spaced text and natural text: "hi ! i'm fine ." <-> "Hi! I'm fine.".

What is lost in such text, and so what can be put back, differs by language: case is put back in English alone, where
nouns are small, and a lone "i" is nothing but "I".
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from types import MappingProxyType
from typing import Literal

from falconer.data.language import detect, small_i
from falconer.records import Dialogue, Turn

# A punctuation mark that stands alone, as a tokeniser leaves it.
_SPACED_MARK = re.compile(r"(?<!\s)\s++([.,?!;:])(?=\s|$)")
# "1 , 921" and "0 . 99" (the second part has two or three digits, so that "i have 2 . 5 of them" stays two sentences).
_SPACED_NUMBER = re.compile(r"(?<=\d) ([.,]) (?=\d{2,3}\b)")
# "t . v ." and "u . s . a .": at least two letters, each with its full stop.
_INITIALS = re.compile(r"\b[a-z](?: ?\. ?[a-z])+ ?\.(?=\s|$|[,?!;])")
_SMALL_INITIALS = ("a.m.", "p.m.", "e.g.", "i.e.")
_SPACED_SUFFIX = re.compile(r"(?<=\w) +(n't|'(?:s|m|re|ve|ll|d))\b")
# Apostrophes that Persona-Chat's own files lost: "i m", "you re", "don t", "it s".
_LOST = (
    (re.compile(r"\bi (m|ve|ll|d)\b"), r"i'\1"),
    (re.compile(r"\b(you|we|they) (re|ve|ll)\b"), r"\1'\2"),
    (
        re.compile(r"\b((?:ca|do|did|does|is|are|was|were|wo|could|would|should|has|have|had|ai)n) t\b"),
        r"\1't",
    ),
    (re.compile(r"\b(it|that|what|he|she|there|who|where|how|let) s\b"), r"\1's"),
)
_LONE_SUFFIX = re.compile(r" (?:m|re|ve|ll|d|t|s)\b")
_I = re.compile(r"\bi\b(?!\.[a-z]\.)")
# The first letter, and a letter behind one full stop (not an ellipsis, not an initial), "?" or "!".
_SENTENCE_START = re.compile(r"^\W*[^\W\d_]|(?<![.!?])(?<!\.\w)[.](?=\s)\s+[^\W\d_]|[!?]\s+[^\W\d_]")

# Addresses, and marks of code, in which a small "i" or a lone point mean something: such a text stays as it is.
_NOT_PROSE = re.compile(r"://|\bwww\.|[\w.]@\w|[{}`\\]|[=<>!]=|\w\s?=\s?[\w\"'\[(-]|[=-]>|</|/>|\w_\w|\w\(|\w/\w+/|\);")
# Each of these has one of the following, which are found faster.
_SIGN_OF_CODE = re.compile(r"[@{}`\\=>_/()]|www\.")
# Languages whose marks stand at the word before them, and those in which only these do: French spaces "!" and "?".
_JOINED = re.compile(r"(?<!\s)\s++([.,?!;:\u061f\u060c\u061b])(?=\s|$)")
_JOINED_FRENCH = re.compile(r"(?<!\s)\s++([.,])(?=\s|$)")
_SPACING_FRENCH = ("fr", "br")
_JOINING = frozenset(
    (
        "af", "ar", "az", "be", "bg", "bs", "ca", "cs", "cy", "da", "de", "el", "eo", "es", "et", "eu", "fa", "fi",
        "ga", "gl", "he", "hr", "hu", "id", "is", "it", "kk", "ko", "ky", "lt", "lv", "mk", "mn", "ms", "nl", "no",
        "pl", "ps", "pt", "ro", "ru", "sk", "sl", "sq", "sr", "sv", "sw", "tl", "tr", "uk", "ur", "uz", "vi",
    )
)  # fmt: skip

_TO_ASCII = MappingProxyType(
    str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2026": "..."})
)
_MARK = re.compile(r"([.,?!;])")
# Texts that are looked at to tell Persona-Chat's style, and the share of them that must show it.
_NUM_PROBED, _MOST = 20_000, 0.8
_LINE_END, _SPACED_LINE_END = re.compile(r"[.?!]\s*$"), re.compile(r"(?<!\s)\s++([.?!])\s*$")
# Persona-Chat has no other marks: brackets, quotes, dashes and colons were dropped.
_NOT_IN_PERSONA_CHAT = re.compile(r"[\"()\[\]{}<>:*_~`/\\|\u2013\u2014-]|(?<!\w)'|'(?!\w)")


@lru_cache(maxsize=100_000)
def natural(text: str, language: str = "en") -> str:
    """Return text as people write it: no space before punctuation, sentence case, "i" as "I", "do n't" as "don't".

    Text with a capital letter keeps its case, text without spaced punctuation its punctuation: so what is natural
    already stays as it is, and a second pass changes nothing. Names keep their lower case: the data don't show them.
    Addresses and code stay as they are. Of other languages than English nothing changes but spaces before punctuation,
    and those only where it is known that the language has none there.

    Args:
        language: an ISO 639 code, see `data/language.py`.
    """
    text = text.strip()
    if find_code(text):
        return text
    if language != "en" or text != text.lower():
        return join_marks(text, language)
    return as_sentences(text)


def find_code(text: str) -> re.Match[str] | None:
    """Return the first address or piece of code in a text: such a text stays as it is."""
    return _NOT_PROSE.search(text) if _SIGN_OF_CODE.search(text) else None


def is_restyled(language: str) -> bool:
    """Tell whether `natural` changes anything in a language's texts."""
    return language == "en" or language in _SPACING_FRENCH or language in _JOINING


def as_sentences(text: str) -> str:
    """Return English prose in lower case as natural text."""
    text = join_marks(_INITIALS.sub(_join_initials, text), "en")
    if _LONE_SUFFIX.search(text):
        for pattern, replacement in _LOST:
            text = pattern.sub(replacement, text)
    return _SENTENCE_START.sub(_capitalise, _I.sub("I", text))


def join_marks(text: str, language: str) -> str:
    """Return text without the spaces before punctuation, which is what `natural` does to text with capital letters."""
    text = text.strip()
    if language == "en":
        for pattern in (_SPACED_NUMBER, _SPACED_MARK, _SPACED_SUFFIX):
            text = pattern.sub(r"\1", text)
        return text
    joined = _JOINED_FRENCH if language in _SPACING_FRENCH else _JOINED if language in _JOINING else None
    return joined.sub(r"\1", text) if joined else text


def joins_line_end(lines: Iterable[str]) -> bool:
    """Tell whether the mark at the end of persona lines stands at its word, as in ConvAI2: "i sing , too." """
    ends = [bool(_SPACED_LINE_END.search(line)) for line in islice(lines, _NUM_PROBED) if _LINE_END.search(line)]
    return 2 * sum(ends) <= len(ends)


def join_line_end(line: str) -> str:
    """Return a line of spaced text with the mark at its end at its word."""
    return _SPACED_LINE_END.sub(r"\1", line)


@lru_cache(maxsize=100_000)
def spaced(text: str, language: str = "en") -> str:
    """Return text in Persona-Chat's style, which models of raw text expect: lower case, spaced punctuation."""
    text = small_i(text.translate(_TO_ASCII), language).lower()
    text = _NOT_IN_PERSONA_CHAT.sub(" ", text)
    return " ".join(_MARK.sub(r" \1 ", text).split())


def is_spaced(texts: Iterable[str]) -> bool:
    """Tell whether texts are Persona-Chat's: lower case, and a space before the punctuation.

    Most of them must be what `spaced` would make of them, and most of those with punctuation must show it spaced: text
    without any of these marks, in whatever script, tells nothing.
    """
    found = [text.strip() for text in islice(texts, _NUM_PROBED)]
    marked = [text for text in found if _MARK.search(text)]
    as_spaced = sum(spaced(text) == text for text in found)
    apart = sum(bool(_SPACED_MARK.search(text)) for text in marked)
    return bool(marked) and as_spaced > _MOST * len(found) and apart > _MOST * len(marked)


def restyle(dialogue: Dialogue, text: Literal["raw", "natural"], language: str | None = None) -> Dialogue:
    """Return the dialogue with its turns, candidates and personas as they are ("raw") or in `natural` style.

    Args:
        language: of the whole data set, from `language_of`; None: this dialogue's own.
    """
    if text == "raw":
        return dialogue
    code = language or detect([turn.text for turn in dialogue.turns] + [*dialogue.persona]).code
    return replace(
        dialogue,
        persona=tuple(natural(line, code) for line in dialogue.persona),
        partner_persona=tuple(natural(line, code) for line in dialogue.partner_persona),
        turns=tuple(_restyled(turn, code) for turn in dialogue.turns),
    )


def _restyled(turn: Turn, language: str) -> Turn:
    # What it was is kept, so that a perplexity per word divides by the same words in either style.
    candidates = tuple(natural(text, language) for text in turn.candidates)
    return replace(turn, text=natural(turn.text, language), candidates=candidates, source=turn.source or turn.text)


def _capitalise(match: re.Match[str]) -> str:
    before, letter = match[0][:-1], match[0][-1]
    # "ß" would become "SS".
    return before + (letter.upper() if len(letter.upper()) == 1 else letter)


def _join_initials(match: re.Match[str]) -> str:
    joined = match[0].replace(" ", "")
    return joined if joined in _SMALL_INITIALS else joined.upper()
