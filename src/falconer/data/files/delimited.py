"""CSV and similar formats: lines of cells by CSV's rules, and tables with a header, a row a line."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from falconer.data.files.row import Row, RowError, shown
from falconer.errors import FalconerError

_SEPARATORS: Mapping[str, str] = MappingProxyType({",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"})
# Excel reads and writes this line to say how the cells are separated.
_SEPARATOR_LINE = re.compile(r'\s*"?sep=(.)"?[,;\t|]*\r?\n', re.IGNORECASE)
# A cell in quotes. Possessive (*+), so that a quote that does not end costs one look, not one for each character.
_IN_QUOTES = re.compile(r'"((?:[^"]|"")*+)"')
# Old Macintosh files, whose lines end in returns alone; a line feed may still stand in a cell, in quotes.
_RETURN_FIRST = re.compile(r"[^\r\n]*\r(?!\n)")
_RETURN = re.compile(r'("(?:[^"]|"")*+")|\r')


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell as it counts, whether it stood in quotes, and what is wrong with one that begins with a quote."""

    text: str
    is_quoted: bool = False
    flaw: Literal["", "never ends", "goes on behind its closing quote"] = ""


# The number of a line's first line in the file, and its cells.
Line = tuple[int, list[Cell]]


def quoted_lines(text: str, separator: str, number: int = 1) -> Iterator[Line]:
    """Split a text by CSV's rules: a cell in quotes may hold separators, line breaks, and quotes doubled.

    Args:
        number: of the text's first line.
    """
    between = re.escape(separator)
    cell = re.compile(rf"(?:{_IN_QUOTES.pattern}|([^{between}\n]*?))({between}|\r?\n|\r?\Z)")
    cells: list[Cell] = []
    position, start = 0, number
    while position < len(text) or cells:
        match = cell.match(text, position)
        assert match is not None, "the second form matches any text"
        quoted, plain, end = match.groups()
        if quoted is not None:
            cells.append(Cell(quoted.replace('""', '"'), is_quoted=True))
        elif plain.startswith('"'):
            is_closed = _IN_QUOTES.match(text, position)
            cells.append(Cell(plain, flaw="goes on behind its closing quote" if is_closed else "never ends"))
        else:
            cells.append(Cell(plain))
        number += match[0].count("\n")
        position = match.end()
        if end != separator:
            yield start, cells
            cells, start = [], number


def separator_line(text: str) -> tuple[str, int] | None:
    """Return the separator that Excel's "sep=;" names in the first line, and where the next line begins."""
    named = _SEPARATOR_LINE.match(text)
    return (named[1], named.end()) if named else None


def read_table(text: str, is_row: Callable[[Any], bool]) -> tuple[list[str], list[Row | RowError]]:
    """Return the header and the rows as dicts; a row with another number of cells, or cut off, is a RowError.

    Args:
        text: the file's content.
        is_row: tells whether a dict has the fields of a known format; so the separator is found.
    """
    if _RETURN_FIRST.match(text):
        text = _RETURN.sub(lambda found: found[1] or "\n", text)
    separator, start = separator_line(text) or (_separator(text, is_row), 0)
    header: list[str] = []
    rows: list[Row | RowError] = []
    for line, found in quoted_lines(text[start:], separator, text.count("\n", 0, start) + 1):
        if flaw := next((cell.flaw for cell in found if cell.flaw), ""):
            rows.append(RowError("row", f"{_reason(flaw)} Everything after it is left out, too.", line))
            break
        cells = [cell.text for cell in found]
        if not any(cells):
            continue
        if not header:
            header = cells
            _check_names(header)
        elif len(cells) != len(header):
            quote = f"Quote cells with {_SEPARATORS.get(separator, repr(separator))} or line breaks."
            expected = f"has {len(cells)} cells; expected {len(header)}, as in the header."
            rows.append(RowError("row", f"{expected} {quote}", line))
        else:
            rows.append((line, dict(zip(header, cells, strict=True))))
    return header, rows


def _check_names(header: list[str]) -> None:
    """Raise a FalconerError for two columns of one name, of which one would be lost."""
    names = [cell.strip().lower() for cell in header if cell.strip()]
    if repeated := sorted(name for name, number in Counter(names).items() if number > 1):
        raise FalconerError(
            f"The table's header names {', '.join(map(shown, repeated[:5]))} twice.",
            "It is not clear which of the two columns has the data: rename or remove one of them.",
        )


def _separator(text: str, is_row: Callable[[Any], bool]) -> str:
    """Return what separates the header's cells: what gives names that a format has, else what separates most."""
    headers = {separator: first_cells(text[:100_000], separator) for separator in _SEPARATORS}
    known = [separator for separator, cells in headers.items() if is_row(dict.fromkeys(cells, "x"))]
    return known[0] if known else max(headers, key=lambda separator: len(headers[separator]))


def first_cells(text: str, separator: str) -> list[str]:
    """Return the cells of the first line that has any, by CSV's rules; none where there is no such line."""
    for _, cells in quoted_lines(text, separator):
        if any(cell.text.strip() for cell in cells):
            return [cell.text for cell in cells]
    return []


def _reason(flaw: str) -> str:
    again = "Download or write it again; a quote inside a cell is doubled."
    if flaw == "never ends":
        # What stands before is whole.
        return f"begins a quoted cell that never ends: a closing quote is missing, or the file was cut off. {again}"
    return f"is not valid CSV: there is text after the closing quote of a cell. {again}"
