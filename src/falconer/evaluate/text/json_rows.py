"""The rows of a JSON file: JSON Lines, an array, objects one after another, parallel lists, or a wrapper of these."""

import re
from pathlib import Path
from typing import Any

from falconer.data.files.json_text import is_json_lines, json_lines, json_values
from falconer.data.files.row import RowError, kind_of
from falconer.errors import FalconerError
from falconer.evaluate.text.row import Row, field_name, row_of
from falconer.evaluate.text.row_fields import PREDICTION_KEYS, REFERENCE_KEYS, TEXT_KEYS
from falconer.files.json_value import NotJson, decode, load_value

EXAMPLE = 'Write one JSON object per line: {"prediction": "...", "reference": "..."}.'
_TEXTS = (*PREDICTION_KEYS, *REFERENCE_KEYS, *TEXT_KEYS)

# A value with its place, for messages, and its line or row.
Placed = tuple[str, int, Any]


def looks_like_json(text: str) -> bool:
    """Tell whether a text of any name is JSON, whole or damaged, and not replies that happen to begin with a brace."""
    start = text.lstrip()
    line = start.partition("\n")[0].rstrip()
    if line in ("{", "[", "[{", "{}", "[]"):
        return True
    if start[:1] in ("{", "["):
        try:
            _, end = decode(start, 0)
        except NotJson:
            return bool(re.match(r'\{\s*"|\[\s*[{\["]', start)) and "\t" not in line
        return not start[end:].partition("\n")[0].strip()
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    # A column of strings as jq prints it; or JSON Lines behind a first line that is none.
    if len(lines) > 1 and all(_is_json(line, str) for line in lines):
        return True
    return 2 * sum(_is_json(line, dict) for line in lines) > len(lines)


def json_rows(text: str, path: Path) -> list[Row]:
    """Return the rows of a JSON file; a row that is a text alone has the one field `text`.

    Raises:
        FalconerError: not JSON, with line and column, or laid out in none of the ways above.
    """
    if _is_lines(text):
        return _rows([_placed(item, path) for item in json_lines(text)], path)
    found = enumerate(json_values(text, str(path)), start=1)
    values = [(f"line {line}", number, value) for number, (line, value) in found]
    if len(values) == 1 and isinstance(values[0][2], dict):
        return _rows_of_object(values[0], path)
    if len(values) == 1 and isinstance(values[0][2], list) and isinstance((values[0][2] or [{}])[0], dict | str):
        values = _numbered(values[0][2])
    return _rows(values, path)


def _is_lines(text: str) -> bool:
    # An object or a list of all rows may stand on one line, too; a column of texts, or damage, is read line by line.
    return is_json_lines(text) or text.lstrip()[:1] not in ("{", "[")


def _is_json(line: str, kind: type) -> bool:
    if not line.startswith('"' if kind is str else "{"):
        return False
    try:
        return isinstance(load_value(line), kind)
    except NotJson:
        return False


def _placed(item: tuple[int, Any] | RowError, path: Path) -> Placed:
    if isinstance(item, RowError):
        raise FalconerError(f"{path}, line {item.line}: {item.message}", EXAMPLE)
    return f"line {item[0]}", item[0], item[1]


def _numbered(values: list[Any]) -> list[Placed]:
    return [(f"row {number}", number, value) for number, value in enumerate(values, start=1)]


def _rows(values: list[Placed], path: Path) -> list[Row]:
    kind = str if values and isinstance(values[0][2], str) else dict
    found = []
    for place, number, value in values:
        if not isinstance(value, kind):
            raise FalconerError(f"{path}, {place}: this row is {kind_of(value)}, not an object.", EXAMPLE)
        found.append(row_of(path, place, number, {"text": value} if isinstance(value, str) else value))
    return found


def _rows_of_object(placed: Placed, path: Path) -> list[Row]:
    place, number, value = placed
    known = [name for name in value if field_name(name) in _TEXTS]
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        return _split_rows(value, path)
    if any(isinstance(value[name], str) for name in known):
        return [row_of(path, place, number, value)]
    wrapped = [name for name, some in value.items() if isinstance(some, list) and some and isinstance(some[0], dict)]
    if len(wrapped) > 1:
        names = " and ".join(map(repr, wrapped))
        raise FalconerError(
            f"'{path}' contains rows under {names}.", "Write the rows to be scored into a file of their own."
        )
    if wrapped:
        return _rows(_numbered(value[wrapped[0]]), path)
    if known and all(isinstance(value[name], list | dict) for name in known):
        return _parallel_rows(value, known, path)
    if value and all(isinstance(some, dict) for some in value.values()):
        return _rows(_numbered([{"id": key, **some} for key, some in value.items()]), path)
    return [row_of(path, place, number, value)]


def _split_rows(value: dict[str, Any], path: Path) -> list[Row]:
    """Read what pandas calls the orientation "split"."""
    names = [str(name) for name in value["columns"]]
    for place, _, cells in _numbered(value["data"]):
        if not isinstance(cells, list) or len(cells) != len(names):
            raise FalconerError(f"{path}, {place} of 'data': not a list of {len(names)} values.", EXAMPLE)
    return _rows(_numbered([dict(zip(names, cells, strict=True)) for cells in value["data"]]), path)


def _parallel_rows(value: dict[str, Any], known: list[str], path: Path) -> list[Row]:
    """Read an object whose fields are columns: lists, or as pandas writes them objects of index and cell."""
    columns = {name: some for name, some in value.items() if type(some) is type(value[known[0]])}
    lengths = {name: len(columns.get(name, ())) for name in known}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name!r} has {length:,}" for name, length in lengths.items())
        raise FalconerError(
            f"'{path}' contains lists of different lengths: {counts}.", "Give each list one value per row."
        )
    keys = list(value[known[0]]) if isinstance(value[known[0]], dict) else range(lengths[known[0]])
    if isinstance(keys, list):
        columns = {name: some for name, some in columns.items() if set(some) == set(keys)}
        if missing := [name for name in known if name not in columns]:
            raise FalconerError(f"In '{path}', {missing[0]!r} and {known[0]!r} have different rows.", EXAMPLE)
    else:
        columns = {name: some for name, some in columns.items() if len(some) == lengths[known[0]]}
    return _rows(_numbered([{name: some[key] for name, some in columns.items()} for key in keys]), path)
