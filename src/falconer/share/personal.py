"""Does a text look personal? E-mail addresses and telephone numbers, also in Persona-Chat's spaced writing."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["e-mail address", "telephone number"]

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}", re.IGNORECASE)
# "ann . lee @ example . com": only with an ending that is no word, since "see you @ home . bye" is none.
_SPACED_EMAIL = re.compile(
    r"[\w+-]+(?: ?\. ?[\w+-]+)* ?@ ?[\w-]+(?: ?\. ?[\w-]+)* ?\. ?(?:com|net|org|edu|gov|io|info|de|fr|uk|ru|cn|eu)\b",
    re.IGNORECASE,
)
# With a country's code, in North America's form, or behind a word for it; nine digits at least, in groups or not.
_INTERNATIONAL = re.compile(r"(?<![\w+])(?:\+|00) ?[1-9](?:[ ().-]{0,3}\d){8,13}(?![\d])")
_AMERICAN = re.compile(r"(?<![\d.-])\(? ?\d{3} ?\)? ?[-. ] ?\d{3} ?[-. ] ?\d{4}(?![\d-])")
_NAMED = re.compile(
    r"\b(?:phone|cell|mobile|telephone|call me|text me)\b[^\d\n]{0,24}(\d(?:[ ().-]{0,3}\d){6,13})(?!\d)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Found:
    """Something personal: what it is, the text that looks so, and where it stands."""

    kind: Kind
    text: str
    where: str


def personal(texts: Iterable[tuple[str, str]]) -> Iterator[Found]:
    """Yield what looks personal in some texts.

    Args:
        texts: pairs of a place, for messages, and the text there.
    """
    for where, text in texts:
        for kind, found in _in(text):
            yield Found(kind, found, where)


def masked(text: str) -> str:
    """Return a text by which its owner recognises it, and nobody else: "an*********om"."""
    return text[:2] + "*" * max(1, len(text) - 4) + text[-2:]


def _in(text: str) -> list[tuple[Kind, str]]:
    # Most texts have neither, and a search for one character is fast.
    found: list[tuple[Kind, str]] = []
    if "@" in text:
        matches = [*_EMAIL.finditer(text), *_SPACED_EMAIL.finditer(text)]
        addresses = dict.fromkeys(re.sub(r"\s", "", match[0]) for match in matches)
        # The spaced form of an address that was found already contains it.
        found += [("e-mail address", one) for one in addresses if not _is_within(one, addresses)]
    if any(char.isdigit() for char in text):
        numbers = dict.fromkeys(
            [match[0].strip() for pattern in (_INTERNATIONAL, _AMERICAN) for match in pattern.finditer(text)]
            + [match[1].strip() for match in _NAMED.finditer(text)]
        )
        found += [("telephone number", one) for one in numbers if not _is_within(one, numbers)]
    return found


def _is_within(one: str, all_of_them: Iterable[str]) -> bool:
    return any(one != other and one in other for other in all_of_them)
