"""One row of a predictions file: its fields, whatever the spelling of their names, and its place in the file."""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from falconer.errors import FalconerError


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file.

    Args:
        path: the file.
        place: where in it, such as "line 3", for messages.
        number: its line or row, from 1.
        fields: its fields in their order: (`field_name` of the name, the name as written, the value).
    """

    path: Path
    place: str
    number: int
    fields: tuple[tuple[str, str, Any], ...]

    def named(self, names: tuple[str, ...]) -> list[tuple[str, Any]]:
        """Return the fields of these names, as written, with their values."""
        return [(written, value) for name, written, value in self.fields if name in names]

    def bad(self, problem: str, hint: str) -> FalconerError:
        """Return the error that this row is wrong."""
        return FalconerError(f"{self.path}, {self.place}: {problem}.", hint)


def row_of(path: Path, place: str, number: int, fields: dict[str, Any]) -> Row:
    """Return a row of named values."""
    return Row(path, place, number, tuple((field_name(name), name, value) for name, value in fields.items()))


@lru_cache(maxsize=10_000)
def field_name(written: str) -> str:
    """Return a field's name in the one form that is looked up: `groundTruth`, "Ground truth" as `ground_truth`."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", written.strip())
    return re.sub(r"[\s_-]+", "_", parted).lower()
