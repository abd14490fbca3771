"""CSV and its kin: a header, then a row a line, cells separated by commas, semicolons, tabs or bars."""

import csv
import io
import re
from collections.abc import Callable
from typing import Any

from falconer.data.files.row import Row, RowError
from falconer.errors import FalconerError

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# Excel reads and writes this line to say how the cells are separated.
_SEPARATOR_LINE = re.compile(r'\s*"?sep=(.)"?[,;\t|]*\r?\n', re.IGNORECASE)


def read_table(text: str, is_row: Callable[[Any], bool]) -> tuple[list[str], list[Row | RowError]]:
    """Return the header and the rows as dicts; a row with another number of cells, or cut off, is a RowError.

    Args:
        text: the file's content.
        is_row: tells whether a dict has the fields of a known format; so the separator is found.
    """
    named = _SEPARATOR_LINE.match(text)
    separator = named[1] if named else _separator(text, is_row)
    first_line = text.count("\n", 0, named.end()) if named else 0
    reader = csv.reader(
        io.StringIO(text[named.end() :] if named else text, newline=""), delimiter=separator, strict=True
    )
    header: list[str] = []
    rows: list[Row | RowError] = []
    while True:
        line = first_line + reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return header, rows
        except csv.Error as error:
            rows.append(RowError("row", f"{_reason(str(error))} What stands behind it is left out too.", line))
            return header, rows
        if not any(cells):
            continue
        if not header:
            header = cells
            _check_names(header)
        elif len(cells) != len(header):
            quote = f"Quote cells with {_SEPARATORS.get(separator, repr(separator))} or line breaks."
            found = f"has {len(cells)} cells; expected {len(header)}, as in the header."
            rows.append(RowError("row", f"{found} {quote}", line))
        else:
            rows.append((line, dict(zip(header, cells, strict=True))))


def _check_names(header: list[str]) -> None:
    """Raise a FalconerError for two columns of one name, of which one would be lost."""
    names = [cell.strip().lower() for cell in header if cell.strip()]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise FalconerError(
            f"The table's header names {', '.join(map(repr, repeated))} twice.",
            "Which of the two columns holds the data can't be told: rename or remove one.",
        )


def _separator(text: str, is_row: Callable[[Any], bool]) -> str:
    """Return what separates the header's cells: what gives names that a format has, else what separates most."""
    headers = {}
    for separator in _SEPARATORS:
        try:
            reader = csv.reader(io.StringIO(text[:100_000], newline=""), delimiter=separator)
            headers[separator] = next((cells for cells in reader if any(cells)), [])
        except csv.Error:
            headers[separator] = []
    known = [separator for separator, cells in headers.items() if is_row(dict.fromkeys(cells, "x"))]
    return known[0] if known else max(headers, key=lambda separator: len(headers[separator]))


def _reason(message: str) -> str:
    if "end of data" in message:
        # A cut-off file ends so; what stands before is whole.
        return (
            "begins a quoted cell that never ends: the file was cut off. Fetch or write it again; a quote inside a "
            "cell is doubled."
        )
    if "field limit" in message:
        return f"begins a cell of more than {csv.field_size_limit():,} characters: a closing quote is missing."
    return f"is not CSV: {message}. Fetch or write it again; a quote inside a cell is doubled."
