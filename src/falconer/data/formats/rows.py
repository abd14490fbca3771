"""What all formats share: clean rows, and checked access to their fields."""

import difflib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from types import MappingProxyType
from typing import Any

from falconer.data.files.cells import NotAList, list_in
from falconer.data.files.row import Row, RowError, kind_of, shown
from falconer.errors import nearest
from falconer.records import Dialogue, Speaker, Turn

Quirks = Counter[str]

# Characters that mean nothing in a text and much to a terminal; line breaks and tabs stay.
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
# From the first of several returns on alone, or many of them would be tried from each one.
_LINE_END = re.compile(r"(?<!\r)\r++\n")
# Rows are lists of objects of texts; deeper ones are damaged or made to harm.
_MAX_DEPTH = 50

# How the tools that write chat logs name the two sides.
SPEAKERS: Mapping[str, Speaker] = MappingProxyType({
    "self": "self", "assistant": "self", "gpt": "self", "bot": "self", "model": "self", "chatgpt": "self",
    "bing": "self", "bard": "self", "ai": "self", "claude": "self", "chatbot": "self",
    "partner": "partner", "user": "partner", "human": "partner", "prompter": "partner",
})  # fmt: skip


Parsed = Iterator[Dialogue | RowError]


def each(rows: Iterable[Row | RowError], parse_one: Callable[[int, dict[str, Any]], Iterable[Dialogue]]) -> Parsed:
    """Apply `parse_one(line, row)` to each row; where it raises, yield the RowError with its line instead."""
    for item in rows:
        if isinstance(item, RowError):
            yield item
            continue
        line, row = item
        try:
            yield from parse_one(line, as_dict(row, "row"))
        except RowError as error:
            error.line = error.line or line
            yield error


def clean(item: Row | RowError, quirks: Quirks) -> Row | RowError:
    """Return a row without control characters in its texts, every line break as one "\\n".

    Where a text is no Unicode or the row is nested too deep, it is a RowError instead.
    """
    if isinstance(item, RowError):
        return item
    try:
        return item[0], _cleaned(item[1], "", 0, quirks)
    except RowError as error:
        error.line = item[0]
        return error


def clean_text(text: str, quirks: Quirks) -> str:
    """Return a text without control characters, every line break as one "\\n"."""
    # printable: neither control characters nor line breaks, which is nearly every text
    if text.isprintable():
        return text
    if "\r" in text:
        text = _LINE_END.sub("\n", text)
        # Alone it ended the lines of old Macintosh files.
        text = text.replace("\r", " " if "\n" in text else "\n")
    text, removed = _CONTROL.subn("", text.replace("\x0b", " ").replace("\x0c", " "))
    quirks["text with control characters, which were removed"] += removed > 0
    return text


def _cleaned(value: Any, field: str, depth: int, quirks: Quirks) -> Any:
    if isinstance(value, str):
        if value.isascii() and value.isprintable():
            return value
        _check_unicode(value, field or "row")
        return clean_text(value, quirks)
    if depth > _MAX_DEPTH:
        raise RowError("row", f"is nested more than {_MAX_DEPTH} levels deep; expected lists of objects of texts.")
    if isinstance(value, dict):
        dot = f"{field}." if field else ""
        return {key: _cleaned(inner, f"{dot}{key}", depth + 1, quirks) for key, inner in value.items()}
    if isinstance(value, list):
        return [_cleaned(inner, f"{field}[{i}]", depth + 1, quirks) for i, inner in enumerate(value)]
    return value


def is_blank(value: Any) -> bool:
    """Tell whether a field holds nothing: null, NaN (an empty cell of a table), blank text, an empty list or object."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (
        isinstance(value, (str, list, dict, tuple)) and not (value.strip() if isinstance(value, str) else value)
    )


def get(row: dict[str, Any], key: str, where: str = "") -> Any:
    """Return `row[key]`; a missing or null field is a RowError that names what the row holds instead."""
    value = row.get(key)
    if value is not None and not (isinstance(value, float) and math.isnan(value)):
        return value
    if key in row:
        raise RowError(where + key, f"is {kind_of(value)}; expected a value.")
    close = difflib.get_close_matches(key, map(str, row), n=1, cutoff=0.5)
    rename = f" Rename {close[0]!r} to {key!r}." if close else ""
    found = f"has {', '.join(map(repr, row))[:300]}.{rename}" if row else "is empty."
    raise RowError(where + key, f"is missing. The row {found}")


def as_dict(value: Any, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RowError(field, f"is {kind_of(value)}; expected an object with named fields, {{...}}.")
    return value


def as_list(value: Any, field: str) -> list[Any]:
    """Return a list. A cell of a table holds it as text, written as JSON, by Python ("['a', 'b']") or by numpy
    ("['a' 'b']"); the library `datasets` stores a list of objects as an object of lists, {"role": [...], ...}."""
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            return list_in(value)
        except NotAList as error:
            raise RowError(field, str(error)) from None
    if is_columns(value):
        return [dict(zip(value, entry, strict=True)) for entry in zip(*value.values(), strict=True)]
    if not isinstance(value, (list, tuple)):
        raise RowError(field, f"is {kind_of(value)}; expected a list, [...].")
    return list(value)


def is_columns(value: Any) -> bool:
    """Tell whether a value is a list of objects that is stored column by column: an object of equally long lists."""
    return (
        isinstance(value, dict)
        and len(value) > 1
        and all(isinstance(column, list) for column in value.values())
        and len({len(column) for column in value.values()}) == 1
    )


def as_text(value: Any, field: str) -> str:
    """Return the text without outer white space; empty text and text that isn't Unicode are RowErrors."""
    if not isinstance(value, str):
        raise RowError(field, f"is {kind_of(value)}; expected text.")
    text = value.strip()
    if not text:
        raise RowError(field, "is empty; expected text. Write it, or remove this entry.")
    if not text.isprintable():
        _check_unicode(text, field)
        # Rows come without any; what is left was written as an escape in a list within a cell.
        if control := _CONTROL.search(text):
            raise RowError(field, f"contains the control character {control[0]!r}. Remove it.")
    return text


def _check_unicode(text: str, field: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RowError(
            field, "contains half of a surrogate pair, which is not a character. Remove the \\ud8.. escape."
        ) from None


def sentences(value: Any, field: str) -> tuple[str, ...]:
    """Return a persona from a list of sentences; blank ones are dropped, one with line breaks becomes several."""
    found: list[str] = []
    for i, text in enumerate(as_list(value, field)):
        if not isinstance(text, str):
            raise RowError(f"{field}[{i}]", f"is {kind_of(text)}; expected a sentence.")
        found += [as_text(line, f"{field}[{i}]") for line in lines(text)]
    return tuple(found)


def lines(text: str) -> tuple[str, ...]:
    """Split a text into its lines without outer white space; blank ones are dropped."""
    return tuple(line.strip() for line in text.split("\n") if line.strip())


def speaker(value: Any, field: str) -> Speaker:
    """Return the side that a role name stands for; an unknown name is a RowError."""
    name = str(value).strip().lower()
    if name not in SPEAKERS:
        raise RowError(field, f"is {shown(value)}, an unknown role. {nearest(name[:80], SPEAKERS)}")
    return SPEAKERS[name]


def check_candidates(turn: Turn, field: str) -> Turn:
    """Return the turn; a RowError if it has candidates and its text is not one of them."""
    if turn.candidates and turn.text not in turn.candidates:
        raise RowError(field, f"do not include the reply {shown(turn.text)}. Add it, or leave the candidates out.")
    return turn


def check_replies(turns: Iterable[Turn], field: str) -> tuple[Turn, ...]:
    """Return the turns as a tuple; a RowError if the speaker "self" says nothing that is to be learned.

    Turns in a row of one speaker become one later on, which is learned only if all of them are.
    """
    kept = tuple(turns)
    runs = [list(run) for speaker, run in groupby(kept, key=lambda turn: turn.speaker) if speaker == "self"]
    if not runs:
        raise RowError(field, "contain no reply to learn; expected at least one turn of the speaker with the persona.")
    if not any(all(turn.is_learned for turn in run) for run in runs):
        raise RowError(
            field, "contain no reply to learn: all of them are marked as not to be learned. Leave the dialogue out."
        )
    return kept
