"""JSON and JSON lines: values with their lines, and rows by split."""

from collections.abc import Callable, Iterator
from typing import Any

from falconer.data.files.row import Row, RowError
from falconer.errors import FalconerError
from falconer.files.json_value import NotJson, decode, load_value, skip_space

_SPLIT_NAMES = frozenset({"train", "valid", "validation", "val", "dev", "test"})


def json_splits(text: str, path: str, is_row: Callable[[Any], bool]) -> dict[str, list[Row | RowError]]:
    """Read JSON or JSON lines into rows by split: {"train": [...], "valid": [...]}, a list, or an object a line.

    A line, or an entry of the list, may also be a bare list of messages. Objects that stand one behind the other, as
    pretty-printed ones do, are read too.

    Args:
        text: the file's content.
        path: its name, for errors.
        is_row: tells a single row from an object that holds splits.

    Raises:
        FalconerError: broken JSON, with line and column; a broken line of JSON lines is that row's RowError instead.
    """
    if is_json_lines(text):
        lines = json_lines(text)
        return {"train": [item if isinstance(item, RowError) else (item[0], _as_row(item[1])) for item in lines]}
    values = [value for _, value in json_values(text, path)]
    if len(values) > 1:
        return {"train": [(number, _as_row(value)) for number, value in enumerate(values, start=1)]}
    (value,) = values
    if _is_messages(value):
        return {"train": [(1, _as_row(value))]}
    if isinstance(value, list):
        return {"train": [(number, _as_row(item)) for number, item in enumerate(value, start=1)]}
    if isinstance(value, dict) and _is_by_columns(value):
        raise FalconerError(
            f"'{path}' is a table column by column, as pandas and datasets write it.",
            "Write it row by row: frame.to_json(FILE, orient='records', lines=True).",
        )
    if is_row(value):
        return {"train": [(1, value)]}
    if isinstance(value, dict) and value and all(isinstance(rows, list) for rows in value.values()):
        splits: dict[str, list[Row | RowError]] = {
            key: [(number, _as_row(row)) for number, row in enumerate(rows, start=1)] for key, rows in value.items()
        }
        # {"data": [...]} holds one list of rows, which is no split of that name.
        return splits if splits.keys() & _SPLIT_NAMES or len(splits) > 1 else {"train": next(iter(splits.values()))}
    if rows := _rows_inside(value, is_row):
        return {"train": rows}
    keys = ", ".join(map(repr, value)) if isinstance(value, dict) else ""
    raise FalconerError(
        f"'{path}' is a JSON object with the keys {keys[:300] or '(none)'}.",
        'Expected a list of dialogues, or {"train": [...], "valid": [...]}, or one dialogue per line.',
    )


def _rows_inside(value: Any, is_row: Callable[[Any], bool]) -> list[Row | RowError]:
    """Return the rows of an object that has each under its id, or has their only list beside a version and the like."""
    if not isinstance(value, dict):
        return []
    if value and all(map(is_row, value.values())):
        # An id of the row's own goes before the key.
        return [(number, {"id": key} | row) for number, (key, row) in enumerate(value.items(), start=1)]
    lists = [inner for inner in value.values() if isinstance(inner, list) and inner and is_row(_as_row(inner[0]))]
    return [(number, _as_row(row)) for number, row in enumerate(lists[0], start=1)] if len(lists) == 1 else []


def is_json_lines(text: str) -> bool:
    """Tell whether each line of a text holds a value; the first may be damaged."""
    # Only "\n" ends a line here: str.splitlines would also cut at U+2028, which JSON allows inside a string.
    first, second = ([line.strip() for line in text[:4_000_000].split("\n") if line.strip()] + ["", ""])[:2]
    if first[:1] not in ("{", "["):
        return False
    try:
        load_value(first)
    except NotJson:
        # A list that is broken over lines begins with a bare bracket.
        return second[:1] == first[0] and (first[0] == "{" or first.endswith("]"))
    return bool(second)


def json_values(text: str, path: str) -> list[Row]:
    """Return the values that stand one behind the other, each with the line on which it begins.

    Raises:
        FalconerError: broken JSON, with line and column.
    """
    try:
        return list(_values(text))
    except NotJson as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        again = (
            "Download or write it again."
            if "cut off" in error.reason
            else "Correct it there, or write the file with a JSON library."
        )
        raise FalconerError(f"'{path}', line {line}, column {column}: not JSON: {error.reason}.", again) from None


def json_lines(text: str) -> Iterator[Row | RowError]:
    """Yield the value of each line that is not blank, with its number; a line that is no JSON is a RowError."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, load_value(line)
        except NotJson as error:
            yield RowError(
                "row",
                f"is not JSON: {error.reason} (column {error.position + 1}). Each object must be on a line of its own.",
                number,
            )


def _values(text: str) -> Iterator[Row]:
    position, line, counted = skip_space(text, 0), 1, 0
    is_first = True
    while position < len(text):
        if not is_first and text[position] not in "{[":
            raise NotJson("there is more text after its closing bracket", position)
        value, end = decode(text, position)
        line += text.count("\n", counted, position)
        yield line, value
        counted, position, is_first = position, skip_space(text, end), False


def _is_by_columns(value: dict[str, Any]) -> bool:
    """Tell whether an object holds a table column by column, as pandas and datasets write it if not told otherwise."""
    if not value or value.keys() & _SPLIT_NAMES:
        return False
    columns = list(value.values())
    if all(isinstance(column, dict) and "0" in column for column in columns):
        return True
    return all(isinstance(column, list) for column in columns) and any(map(_is_messages, (c[0] for c in columns if c)))


def _is_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(item, dict) and ({"role", "content"} <= set(item) or {"from", "value"} <= set(item))
            for item in value
        )
    )


def _as_row(value: Any) -> Any:
    """Return a bare list of messages as the row that it stands for."""
    return {"messages" if "role" in value[0] else "conversations": value} if _is_messages(value) else value
