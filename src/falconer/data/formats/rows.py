"""What all formats share: the error of one row, and checked access to the fields of a row."""

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from falconer.errors import nearest
from falconer.records import Dialogue, Speaker, Turn

# A row, with its line in the file (or its number where the file has no lines), counted from 1.
Row = tuple[int, Any]
Quirks = Counter[str]

# Shows where the list cells of a CSV begin and end, see `as_list`.
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)

# How the tools that write chat logs name the two sides.
SPEAKERS: dict[str, Speaker] = {
    "self": "self", "assistant": "self", "gpt": "self", "bot": "self", "model": "self", "chatgpt": "self",
    "bing": "self", "bard": "self", "partner": "partner", "user": "partner", "human": "partner", "prompter": "partner",
}  # fmt: skip


class RowError(Exception):
    """A row that can't be used.

    Args:
        field: where in the row, e.g. "turns[3].text".
        message: what is wrong, what was expected, and how to mend it.
        line: filled in by whoever knows it.
    """

    def __init__(self, field: str, message: str, line: int = 0) -> None:
        super().__init__(f"{field} {message}")
        self.field, self.message, self.line = field, message, line


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


def get(row: dict[str, Any], key: str, where: str = "") -> Any:
    """Return `row[key]`; a missing or null field is a RowError that names what the row holds instead."""
    value = row.get(key)
    if value is not None:
        return value
    if key in row:
        raise RowError(where + key, "is null. Write its value.")
    close = nearest(key, map(str, row)) if row else ""
    found = f"holds {', '.join(map(repr, row))}. {close if 'Did you' in close else ''}" if row else "is empty."
    raise RowError(where + key, f"is missing. The row {found}".rstrip())


def as_dict(value: Any, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RowError(field, f"is {_kind(value)}; expected an object with named fields, {{...}}.")
    return value


def as_list(value: Any, field: str) -> list[Any]:
    """Return a list. A CSV cell holds it as text, written by Python ("['a', 'b']") or by numpy ("['a' 'b']")."""
    if isinstance(value, str) and value.strip().startswith("["):
        cell = value.strip()
        if re.fullmatch(r"\[[\s,]*\]", _QUOTED.sub("", cell)):
            # Each string on its own: literal_eval of the whole would glue numpy's comma-less strings together.
            return [ast.literal_eval(quoted) for quoted in _QUOTED.findall(cell)]
        raise RowError(
            field, "is text that isn't a list of strings. Save the data set as parquet or JSON, which keep lists."
        )
    if not isinstance(value, (list, tuple)):
        raise RowError(field, f"is {_kind(value)}; expected a list, [...].")
    return list(value)


def as_text(value: Any, field: str) -> str:
    """Return the text without outer white space; empty text and text that isn't Unicode are RowErrors."""
    if not isinstance(value, str):
        raise RowError(field, f"is {_kind(value)}; expected text.")
    text = value.strip()
    if not text:
        raise RowError(field, "is empty; expected text. Write it, or remove this entry.")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RowError(
                field, "holds half of a surrogate pair, which is no character. Remove the \\ud8.. escape."
            ) from None
    return text


def sentences(value: Any, field: str) -> tuple[str, ...]:
    """Return a persona from a list of sentences; blank ones are dropped, one with line breaks becomes several."""
    found: list[str] = []
    for i, text in enumerate(as_list(value, field)):
        if not isinstance(text, str):
            raise RowError(f"{field}[{i}]", f"is {_kind(text)}; expected a sentence.")
        found += [as_text(line, f"{field}[{i}]") for line in lines(text)]
    return tuple(found)


def lines(text: str) -> tuple[str, ...]:
    """Split a text into its lines without outer white space; blank ones are dropped."""
    return tuple(line.strip() for line in text.split("\n") if line.strip())


def speaker(value: Any, field: str) -> Speaker:
    """Return the side that a role name stands for; an unknown name is a RowError."""
    name = str(value).strip().lower()
    if name not in SPEAKERS:
        raise RowError(field, f"is {value!r}, an unknown role. {nearest(name, SPEAKERS)}")
    return SPEAKERS[name]


def check_candidates(turn: Turn, field: str) -> Turn:
    """Return the turn; a RowError if it has candidates and its text is not one of them."""
    if turn.candidates and turn.text not in turn.candidates:
        raise RowError(field, f"don't hold the reply {turn.text!r}. Add it, or leave the candidates out.")
    return turn


def check_replies(turns: Iterable[Turn], field: str) -> tuple[Turn, ...]:
    """Return the turns as a tuple; a RowError if the speaker "self" never says anything."""
    kept = tuple(turns)
    if not any(turn.speaker == "self" and turn.is_learned for turn in kept):
        raise RowError(
            field, "hold no reply to learn from; expected at least one turn of the speaker who owns the persona."
        )
    return kept


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true/false", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")
