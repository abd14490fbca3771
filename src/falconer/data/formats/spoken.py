"""What corpora of two speakers share: the persona labels of Persona-Chat, personas of any shape, turns that alternate.

Where a corpus does not say who learns, it is the second speaker, the one who answers: so do ParlAI's own readers, and
a conversation of two known personas still gives one dialogue.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from falconer.data.files.row import RowError
from falconer.data.formats.rows import Quirks, as_list, as_text, lines, sentences
from falconer.records import Speaker, Turn

SILENCE = re.compile(r"__\s*silence\s*__", re.IGNORECASE)

_APOSTROPHES = "'\u2018\u2019\u02bc\u2032\uff07`\u00b4"
_COLONS = ":\uff1a\ufe55"
# White space, and what is seen as none.
_SPACE = r"[\s\u200b-\u200f\u2060\ufeff\u00ad]"
_KNOWN = re.compile(
    rf"{_SPACE}*(?P<whose>your(?:{_SPACE}+own)?|(?:(?:your|the){_SPACE}+)?partner(?:[{_APOSTROPHES}]?s|s[{_APOSTROPHES}])?)"
    rf"{_SPACE}+personas?{_SPACE}*[{_COLONS}]{_SPACE}*(?P<text>.*)",
    re.IGNORECASE | re.DOTALL,
)
# "persona:", "- bot's persona:", "your_personality:"; not "my persona: ...", which is somebody talking.
_SUSPECT = re.compile(
    rf"[\W_]*(?!my\b)(?:[^\W_][\w{_APOSTROPHES}]*[\s_-]+){{0,2}}(?:your|partners?)?(?:persona|personality|profile)s?"
    rf"[\s#_]*\d*\s*[{_COLONS};=]",
    re.IGNORECASE,
)
# The label in other languages: "你的人设：", "당신의 페르소나:", "твоя персона:", "tu personalidad:".
_SUSPECT_FOREIGN = re.compile(
    rf"[\W_]*[^\n.!?。！？{_COLONS}]{{0,20}}(?:人设|人設|人物|角色|个性|個性|性格|画像|페르소나|성격|ペルソナ|プロフィール|"
    r"персон|личност|профил|شخصي|व्यक्तित्व|persönlichkeit|personalità|personnalité|personalidad|perfil|profilo|"
    rf"kepribadian|kişili|osobowoś)[^\s{_COLONS}]*\s*[{_COLONS}]",
    re.IGNORECASE,
)
# "my persona: i ski", "traits: i ski".
_OPENING = re.compile(
    rf"[^\W\d_][\w{_APOSTROPHES}-]*(?:[ _-][\w{_APOSTROPHES}-]+){{0,3}}\s*[{_COLONS}]\s*[^\W\d_]", re.IGNORECASE
)
_SUSPECT_BARE = re.compile(rf"[\W_]*(?:your?|partner\w*[{_APOSTROPHES}]?s?)[\s_-]+personas?\b", re.IGNORECASE)


@dataclass
class Draft:
    """A dialogue that is being read line by line."""

    first_line: int
    persona: list[str] = field(default_factory=list)
    partner_persona: list[str] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    is_broken: bool = False


def persona_line(text: str) -> tuple[Speaker, str] | None:
    """Return whose persona a labelled line tells, "self" for "your persona: ...", and the sentence; None for any other.

    The label is recognised in any case, with any apostrophe and colon, and with or without the possessive.
    """
    label = _KNOWN.match(text)
    if not label:
        return None
    return ("self" if label["whose"].split()[-1].lower() in ("your", "own") else "partner"), label["text"].strip()


def check_no_label(text: str, field: str, *, is_opening: bool) -> None:
    """Raise a RowError for a line that looks like a persona label of a spelling that is not known.

    Args:
        text: a line that stands alone, without a reply.
        field: where it is, for the error.
        is_opening: no turn stands before it, where personas belong.
    """
    head = text[:100]
    if _SUSPECT.match(head) or (is_opening and (_SUSPECT_BARE.match(head) or _SUSPECT_FOREIGN.match(head))):
        raise _unknown_label(text, field)


def check_no_opening_label(text: str, field: str) -> None:
    """Raise a RowError for any "label: text" that stands alone before the first turn, where persona lines stand."""
    if _OPENING.match(text[:100]):
        raise _unknown_label(text, field)


def _unknown_label(text: str, field: str) -> RowError:
    return RowError(
        field,
        f"{text[:60]!r} looks like a persona line, but its label is unknown. "
        "Write 'your persona: ...' or 'partner's persona: ...'.",
    )


def persona_of(value: Any, field: str) -> tuple[str, ...]:
    """Return a persona's sentences from a list, nested lists, a text of several lines, or nothing."""
    if value is None:
        return ()
    if isinstance(value, str) and not value.strip().startswith("["):
        return lines(value)
    value = as_list(value, field)
    if any(isinstance(item, (list, tuple)) for item in value):
        # conv_ai_2 on the hub wraps each sentence into a list.
        nested = (persona_of(item, f"{field}[{i}]") for i, item in enumerate(value))
        return tuple(sentence for found in nested for sentence in found)
    return sentences(value, field)


def both_personas(value: Any, field: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the personas of the first and the second speaker, from a list of two or an object of two."""
    parts = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(parts, (list, tuple)) or len(parts) != 2:
        raise RowError(field, "is not a pair; expected two personas, that of the first speaker and that of the second.")
    names = list(map(str, value)) if isinstance(value, dict) else ["0", "1"]
    first, second = (persona_of(part, f"{field}[{name}]") for part, name in zip(parts, names, strict=True))
    return first, second


def check_no_persona(row: dict[str, Any], corpus: str) -> None:
    """Raise a RowError for a persona in a row of a corpus that has none: nobody could tell whose it is."""
    for key in ("persona", "personas", "personality", "profile"):
        if row.get(key):
            raise RowError(
                key,
                f"is a field that {corpus} does not have, so it is unknown whose persona it is. Write rows of "
                "'persona' and 'dialogue', a list of pairs [partner, self].",
            )


def turn(speaker: Speaker, value: Any, field: str, quirks: Quirks) -> list[Turn]:
    """Return the turn, or none where its text is blank (counted) or `__SILENCE__` (counted)."""
    if isinstance(value, str) and not value.strip():
        quirks["empty turn dropped"] += 1
        return []
    text = as_text(value, field)
    if SILENCE.fullmatch(text):
        quirks["silence dropped"] += 1
        return []
    return [Turn(speaker, text)]


def alternating(texts: Iterable[Any], field: str, quirks: Quirks) -> list[Turn]:
    """Return turns of texts that take turns: the first is the partner's, the second one's own."""
    found: list[Turn] = []
    for i, text in enumerate(texts):
        found += turn("self" if i % 2 else "partner", text, f"{field}[{i}]", quirks)
    return found
