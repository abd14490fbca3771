"""The rows of a TSV or CSV file, whether its cells are quoted, as spreadsheets and pandas quote them, or plain."""

import re
from collections.abc import Sequence
from pathlib import Path

from falconer.data.files.delimited import Cell, Line, first_cells, quoted_lines, separator_line
from falconer.data.files.row import shown
from falconer.data.files.text import lines_of
from falconer.errors import FalconerError
from falconer.evaluate.text.row import Row, field_name, row_of
from falconer.evaluate.text.row_fields import DIALOGUE_KEYS, ID_KEYS, PREDICTION_KEYS, TEXT_KEYS, from_cell, is_known

_HINT = "Write prediction<TAB>reference; before the tab of an empty reply there is nothing."
_NAME_COLUMNS = "Name the columns in the first line, two of them prediction and reference."
# What programs that quote every text leave without quotes.
_NO_TEXT = re.compile(r"\s*|[-+.\deE]+|NA|NaN|TRUE|FALSE|True|False")
# No reply looks so, but the name of a column does.
_LIKE_A_NAME = re.compile(r"[A-Za-z]+(?:_\w+)+")


def delimiter_of(text: str) -> str | None:
    """Return what parts the columns of a text whose first line names a reply and a gold reply, or an id and one of
    them; None if it names no such columns."""
    for delimiter in "\t,;|":
        names = first_cells(text, delimiter)
        if len(names) > 1 and _names_a_pair(names):
            return delimiter
    return None


def delimited_rows(text: str, path: Path, delimiter: str | None, *, is_one_text: bool) -> list[Row]:
    """Return the rows of a table; without a header they have the fields `prediction` and `reference`.

    Args:
        delimiter: None for a CSV, whose first line tells it.
        is_one_text: a table of one column without a header is allowed: its field is `text`.

    Raises:
        FalconerError: columns that no header names, a row with another number of cells, a quote that does not end.
    """
    first_line = 1
    if named := separator_line(text):
        delimiter, text, first_line = named[0], text[named[1] :], 1 + text.count("\n", 0, named[1])
    is_csv = delimiter != "\t"
    if delimiter is None:
        delimiter = next((one for one in ",;\t|" if any(map(names_a_text, first_cells(text, one)))), ",")
    lines = list(quoted_lines(text, delimiter, first_line))
    if not is_csv:
        plain = _plain_lines(text, first_line)
        lines = lines if _is_quoting(_filled(lines), _filled(plain), path) else plain
    first = next((i for i, line in enumerate(lines) if _filled([line])), len(lines))
    if first == len(lines):
        return []
    # Where a row is one text, an empty line is an empty text; else it is no row.
    lines = lines[first:] if len(lines[first][1]) == 1 else _filled(lines)
    names, is_header = _columns([cell.text for cell in lines[0][1]], lines[0][0], path, is_csv, is_one_text)
    hint = "Put a cell that contains the separator in quotes." if is_csv else _HINT
    return [_row(line, names, path, hint if len(names) == 2 else "See the first line.") for line in lines[is_header:]]


def names_a_text(name: str, *, or_plain: bool = True) -> bool:
    """Tell whether a column of this name holds a reply or a gold reply; `or_plain`: or a text that may be either."""
    return is_known(field_name(name)) or (or_plain and field_name(name) in TEXT_KEYS)


def _names_a_pair(names: Sequence[str]) -> bool:
    found = [field_name(name) for name in names]
    replies = sum(name in PREDICTION_KEYS for name in found)
    golds = sum(is_known(name) for name in found) - replies
    has_id = any(name in (*ID_KEYS, *DIALOGUE_KEYS) for name in found)
    return bool((replies and golds) or (has_id and (replies or golds)))


def _columns(cells: list[str], number: int, path: Path, is_csv: bool, is_one_text: bool) -> tuple[list[str], bool]:
    """Return the columns' names, and whether the first row is what names them."""
    number_known = sum(map(names_a_text, cells))
    # Two columns may be the first pair: "gold" is an answer, too. Names are single words.
    is_pair = len(cells) == 2 and not all(re.fullmatch(r"\s*[\w.-]*\s*", cell) for cell in cells)
    if number_known and (_names_a_pair(cells) or is_csv or not is_pair):
        names = [cell.strip() for cell in cells]
        twice = next((name for name in names if names_a_text(name) and names.count(name) > 1), None)
        if twice is not None:
            raise FalconerError(f"{path}, line {number}: two columns are named {shown(twice)}.", "Rename one of them.")
        return names, True
    if len(cells) == 1 and is_one_text:
        return ["text"], False
    if len(cells) == 2 and not is_csv and not any(map(_LIKE_A_NAME.fullmatch, cells)):
        return ["prediction", "reference"], False
    found = ", ".join(map(shown, cells[:8]))
    if is_csv or len(cells) == 2:
        raise FalconerError(f"{path}, line {number}: no known column name in {found}.", _NAME_COLUMNS)
    problem = f"{len(cells)} column{'s' * (len(cells) > 1)} without known names instead of 2: {found}"
    raise FalconerError(f"{path}, line {number}: {problem}.", _HINT if len(cells) == 1 else _NAME_COLUMNS)


def _row(line: Line, names: list[str], path: Path, hint: str) -> Row:
    number, cells = line
    if any(cell.flaw for cell in cells):
        way_out = "Double the quotes inside a quoted cell. If the file was cut off, download it again."
        raise FalconerError(f"{path}, line {number}: a quoted cell has no closing quote.", way_out)
    # Spreadsheets fill rows up with empty cells.
    while len(cells) > len(names) and not cells[-1].text.strip():
        cells = cells[:-1]
    if len(cells) != len(names):
        problem = f"{len(cells)} column{'s' * (len(cells) > 1)} instead of {len(names)}"
        raise FalconerError(f"{path}, line {number}: {problem}.", hint)
    fields = {name: from_cell(field_name(name), cell.text) for name, cell in zip(names, cells, strict=True) if name}
    return row_of(path, f"line {number}", number, fields)


def _plain_lines(text: str, number: int) -> list[Line]:
    return [(number + i, [Cell(cell) for cell in line.split("\t")]) for i, line in enumerate(lines_of(text))]


def _is_quoting(lines: list[Line], as_it_stands: list[Line], path: Path) -> bool:
    """Tell whether the quotes of a TSV are CSV's, or part of the texts.

    They are CSV's if a program that quotes by one rule can have written all of the file: Python and pandas quote a cell
    that holds a quote or a line break, spreadsheets one with a comma too, others every text. So a single reply in
    quotes among replies without them is a reply in quotes.

    Args:
        lines: the file by CSV's rules.
        as_it_stands: the file split at tabs and line ends alone.

    Raises:
        FalconerError: every text stands in quotes, by other rules than CSV's.
    """
    cells = [cell for _, line in lines for cell in line]
    quoted = [cell.text for cell in cells if cell.is_quoted]
    plain = [cell.text for cell in cells if not cell.is_quoted]
    if any(cell.flaw for cell in cells):
        whole = [cell.text for _, line in as_it_stands for cell in line]
        if all(re.fullmatch(r'".*"', text) or _NO_TEXT.fullmatch(text) for text in whole):
            hint = "Double the inner quotes, as CSV does, or write JSON Lines."
            raise FalconerError(f"In '{path}' every text is quoted, but quotes inside a text are not doubled.", hint)
        return False
    if not quoted or len({len(line) for _, line in lines}) != 1:
        return False
    is_whole = len({len(line) for _, line in as_it_stands}) == 1
    if any('"' in text for text in plain):
        return not is_whole
    if is_whole and any("\n" in text for text in quoted):
        number = next(number for number, line in lines for cell in line if cell.is_quoted and "\n" in cell.text)
        problem = (
            "a quote is closed some lines later, so this is a cell of several lines or two texts with one quote each."
        )
        raise FalconerError(f"{path}, line {number}: {problem}", "Write JSON Lines, which is unambiguous.")
    for needs_quotes in ('"\t\r\n', '"\t\r\n,'):
        if all(not text or set(text) & set(needs_quotes) for text in quoted):
            return not any(set(text) & set(needs_quotes) for text in plain)
    return all(map(_NO_TEXT.fullmatch, plain))


def _filled(lines: list[Line]) -> list[Line]:
    return [line for line in lines if any(cell.text.strip() for cell in line[1])]
