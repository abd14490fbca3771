"""Lists that a cell of a table holds as text: as JSON, as Python prints them, or as numpy does."""

import ast
import re
import warnings
from typing import Any

from falconer.data.files.row import shown
from falconer.files.json_value import NotJson, load_value

# A string as Python and numpy write it. Possessive (*+): a quote that is never closed is looked at once, and not once
# more from each quote behind it.
_STRING = r"""(?:'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+\")"""
_QUOTED = re.compile(_STRING, re.DOTALL)
_STRINGS = re.compile(rf"\[(?:[\s,]*+{_STRING})*+[\s,]*+\]", re.DOTALL)
_CLOSED = re.compile(rf"(?:[^'\"]|{_STRING})*+", re.DOTALL)
_NESTED = re.compile(r"\[\s*[\[{]")


class NotAList(Exception):
    """A cell that holds no list; says what it is instead, as the end of a sentence about the cell."""


def list_in(cell: str) -> list[Any]:
    """Return the list that a cell's text stands for: `["a", "b"]`, `['a', 'b']`, `['a' 'b']`, `[{'a': 1}]`.

    Raises:
        NotAList: it stands for none.
    """
    cell = cell.strip()
    try:
        found = load_value(cell)
    except NotJson:
        found = None
    if isinstance(found, list):
        return found
    if _NESTED.match(cell) and (nested := _python_list(cell)) is not None:
        return nested
    if not _STRINGS.fullmatch(cell):
        raise NotAList("is text that isn't a list of strings. Save the data set as parquet or JSON, which keep lists.")
    # Each string on its own: literal_eval of the whole would glue numpy's comma-less strings together.
    return [_unquoted(quoted) for quoted in _QUOTED.findall(cell)]


def _python_list(cell: str) -> list[Any] | None:
    """Return the list of lists or objects that Python's notation of it stands for, None if it is none."""
    if not _CLOSED.fullmatch(cell) or re.search(r"_\s*_", _QUOTED.sub("_", cell)):
        return None  # numpy leaves commas out, and Python would glue the two strings together
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = ast.literal_eval(cell)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError, Warning):
        return None
    return found if isinstance(found, list) else None


def _unquoted(quoted: str) -> str:
    """Return the string that Python's notation of it stands for."""
    if "\\" not in quoted and "\n" not in quoted:
        return quoted[1:-1]
    try:
        with warnings.catch_warnings():
            # Python only warns about an escape that is none, e.g. of a Windows path.
            warnings.simplefilter("error")
            return str(ast.literal_eval(quoted))
    except (SyntaxError, ValueError, Warning):
        raise NotAList(
            f"holds {shown(quoted)}, which is not a valid Python string: a line break or backslash in it is not "
            "escaped. Save the data set as parquet or JSON, which keep lists."
        ) from None
