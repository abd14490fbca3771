"""The rows of a predictions file, whichever form it has: JSON, a table, or one text a line."""

from pathlib import Path

from falconer.errors import FalconerError
from falconer.evaluate.delimited import delimited_rows, delimiter_of
from falconer.evaluate.file_text import Row, lines_of, read_text, row_of
from falconer.evaluate.json_rows import json_rows, looks_like_json

_TABLES = (".tsv", ".csv")
_JSON = (".jsonl", ".json", ".ndjson")


def read_rows(path: Path, *, is_one_text: bool = False) -> list[Row]:
    """Return the rows of a file. Its name decides where it ends in .jsonl, .json, .ndjson, .tsv or .csv (and .gz or
    .zst behind it), else its content.

    Args:
        is_one_text: the file may be plain text, a line a row; their one field is `text`.

    Raises:
        FalconerError: the file can't be read, or is none of these forms; names file and line.
    """
    text = read_text(path)
    kind = _kind(path)
    if kind in _JSON:
        return json_rows(text, path)
    first = next((line for line in text.split("\n") if line.strip()), "")
    if looks_like_json(text) and (kind not in _TABLES or first.lstrip()[0] in "{["):
        return json_rows(text, path)
    delimiter = delimiter_of(text)
    if kind == ".csv" or delimiter or ("\t" in first and (kind == ".tsv" or not is_one_text)):
        delimiter = delimiter if kind == ".csv" else delimiter or "\t"
        return delimited_rows(text, path, delimiter, is_one_text=is_one_text)
    if not is_one_text and first:
        raise FalconerError(
            f"'{path}' holds neither JSON Lines nor tab-separated text.",
            "Name the file of the gold replies with --reference, if this is one reply a line.",
        )
    return _text_rows(text, path)


def _text_rows(text: str, path: Path) -> list[Row]:
    return [row_of(path, f"line {i}", i, {"text": line}) for i, line in enumerate(lines_of(text), start=1)]


def _kind(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz").removesuffix(".zst")).suffix
