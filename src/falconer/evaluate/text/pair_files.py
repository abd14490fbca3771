"""The rows of a predictions file, whichever form it has: JSON, a table, parquet, or one text a line."""

from pathlib import Path

from falconer.data.files.parquet import is_parquet, parquet_rows
from falconer.data.files.text import lines_of, read_file, text_of
from falconer.errors import FalconerError
from falconer.evaluate.text.delimited import delimited_rows, delimiter_of, names_a_text
from falconer.evaluate.text.json_rows import json_rows, looks_like_json
from falconer.evaluate.text.row import Row, row_of

_JSON = (".jsonl", ".json", ".ndjson")


def read_rows(path: Path, *, is_one_text: bool = False) -> list[Row]:
    """Return the rows of a file. Its name decides where it ends in .jsonl, .json, .ndjson, .tsv or .csv (and .gz or
    .zst behind it), else its content. It may be packed, or the only data file in an archive.

    Args:
        is_one_text: the file may be plain text, a line a row; their one field is `text`.

    Raises:
        FalconerError: the file can't be read, or is none of these forms; names file and line.
    """
    file = read_file(path)
    if is_parquet(file.data):
        rows = parquet_rows(file.data, file.path)
        return [row_of(path, f"row {number}", number, fields) for number, fields in rows]
    text, kind = text_of(file), _kind(file.name)
    filled = [line for line in text.split("\n") if line.strip()]
    first = filled[0] if filled else ""
    is_column = names_a_text(first.strip().strip('"'), or_plain=kind == ".tsv")
    # A table may have cells that look like JSON, but its first line is none.
    is_json = looks_like_json(text) and not is_column and (kind not in (".tsv", ".csv") or first.lstrip()[0] in "{[")
    if kind in _JSON or is_json:
        return json_rows(text, path)
    delimiter = None if kind == ".csv" else delimiter_of(text)
    if kind == ".csv" or delimiter:
        return delimited_rows(text, path, delimiter, is_one_text=is_one_text)
    tabs = {line.count("\t") for line in filled}
    is_tabbed = "\t" in first and (not is_one_text or kind == ".tsv" or len(tabs) == 1)
    if is_tabbed or (is_one_text and is_column and tabs == {0}):
        return delimited_rows(text, path, "\t", is_one_text=is_one_text)
    if filled and not is_one_text:
        raise FalconerError(
            f"'{path}' is neither JSON Lines nor tab-separated text.",
            "If it has one reply a line, give the file of gold replies with --reference.",
        )
    return [row_of(path, f"line {i}", i, {"text": line}) for i, line in enumerate(lines_of(text), start=1)]


def _kind(name: str) -> str:
    path = Path(name.lower())
    return path.with_suffix("").suffix if path.suffix in (".gz", ".zst", ".bz2", ".xz") else path.suffix
