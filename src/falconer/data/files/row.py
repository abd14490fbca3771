"""One row of a file, whatever the file is about: its line and its value, or why it can't be used."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

# A row, with its line in the file (or its number where the file has no lines), counted from 1.
Row = tuple[int, Any]

_KINDS: Mapping[type, str] = MappingProxyType(
    {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
)


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


def kind_of(value: Any) -> str:
    """Return what a value is, in a message's words."""
    if isinstance(value, float) and math.isnan(value):
        return "NaN, an empty cell"
    return "null" if value is None else _KINDS.get(type(value), f"a {type(value).__name__}")


def shown(value: Any, length: int = 80) -> str:
    """Return a value for a message: as Python writes it, so that a terminal obeys none of it, and cut where it is
    long; the quotes of a text stay whole."""
    if isinstance(value, str):
        return repr(value if len(value) <= length else f"{value[: length - 3]}...")
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 3]}..."
