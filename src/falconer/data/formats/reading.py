"""From a path to text or rows: decompression, decoding, and the containers JSON, JSON lines, CSV and parquet."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from falconer.data.formats.rows import Row, RowError
from falconer.errors import FalconerError

# First bytes of files that people hand in by mistake, and what to do about it.
_FOREIGN = {
    b"PK\x03\x04": ("a zip archive (or an Excel file)", "Unpack it first; save a sheet as CSV."),
    b"BZh": ("compressed with bzip2", "Unpack it, or use gzip or zstd."),
    b"\xfd7zXZ": ("compressed with xz", "Unpack it, or use gzip or zstd."),
    b"\x80\x04": ("a pickle", "A pickle can run code, so it is never loaded. Save it as JSON or parquet."),
    b"\xff\xfe": ("UTF-16 text", "Convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW."),
    b"\xfe\xff": ("UTF-16 text", "Convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW."),
}


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, unpacked if it is gzip or zstd (by its first bytes, whatever its name).

    Raises:
        FalconerError: a folder, an unreadable, empty or broken file.
    """
    if path.is_dir():
        inside = sorted(file.name for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        some = f" There are {', '.join(inside[:5])}{', ...' if len(inside) > 5 else ''}." if inside else ""
        raise FalconerError(f"'{path}' is a folder.", f"Give one file of it.{some}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FalconerError(
            f"'{path}' can't be read: {error.strerror}.", "Check the name and your right to read it."
        ) from None
    if data[:2] == b"\x1f\x8b":
        data = _gunzip(data, path)
    elif data[:4] == b"\x28\xb5\x2f\xfd":
        data = _unzstd(data, path)
    if not data.strip():
        raise FalconerError(
            f"'{path}' is empty.", "Check how it was made; falconer data show --help lists the formats."
        )
    return data


def decode(data: bytes, path: str) -> str:
    """Return the bytes as text (UTF-8, with or without a byte order mark).

    Raises:
        FalconerError: not UTF-8; the line of the first wrong byte is named.
    """
    for magic, (what, fix) in _FOREIGN.items():
        if data.startswith(magic):
            raise FalconerError(f"'{path}' is {what}, not text.", fix)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FalconerError(
            f"'{path}', line {line}: byte 0x{data[error.start]:02x} is not UTF-8.",
            "Convert the file, e.g. iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW.",
        ) from None


def json_splits(text: str, path: str, is_row: Any) -> dict[str, list[Row | RowError]]:
    """Read JSON or JSON lines into rows by split: {"train": [...], "valid": [...]}, a list, or an object a line.

    Args:
        text: the file's content.
        path: its name, for errors.
        is_row: tells a single row from an object that holds splits.

    Raises:
        FalconerError: broken JSON, with line and column; a broken line of JSON lines is that row's RowError instead.
    """
    if is_json_lines(text):
        return {"train": list(_json_lines(text))}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        is_cut = error.msg.startswith("Unterminated") or error.pos >= len(text.rstrip()) - 1
        cut = "The file ends too early: it was cut off. " if is_cut else ""
        raise FalconerError(
            f"'{path}', line {error.lineno}, column {error.colno}: not JSON: {error.msg}.",
            f"{cut}Fetch or write it again.",
        ) from None
    if isinstance(value, list):
        return {"train": list(enumerate(value, start=1))}
    if is_row(value):
        return {"train": [(1, value)]}
    if value and all(isinstance(rows, list) for rows in value.values()):
        return {key: list(enumerate(rows, start=1)) for key, rows in value.items()}
    raise FalconerError(
        f"'{path}' is a JSON object with the keys {', '.join(map(repr, value)) or '(none)'}.",
        'Expected a list of dialogues, or {"train": [...], "valid": [...]}, or one dialogue a line.',
    )


def csv_rows(text: str) -> Iterator[Row | RowError]:
    """Yield the rows of a CSV with a header, as dicts; one with another number of cells, or cut off, is a RowError."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # A cut-off file ends so; what stands before is whole.
            what = (
                "begins a quoted cell that never ends: the file was cut off"
                if "end of data" in str(error)
                else f"is not CSV: {error}"
            )
            yield RowError("row", f"{what}. Fetch or write it again; a quote inside a cell is doubled.", line)
            return
        if not cells:
            continue
        if not header:
            header = cells
        elif len(cells) != len(header):
            yield RowError(
                "row",
                f"has {len(cells)} cells; expected {len(header)}, as in the header. Quote cells with commas.",
                line,
            )
        else:
            yield line, dict(zip(header, cells, strict=True))


def parquet_rows(data: bytes, path: str) -> list[Row | RowError]:
    """Return the rows of a parquet file as dicts.

    Raises:
        FalconerError: pyarrow is missing, or the file is broken.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise FalconerError(
            f"Reading '{path}' needs pyarrow.", "pip install pyarrow, or save the file as JSON lines."
        ) from None
    try:
        rows = pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise FalconerError(
            f"'{path}' is a broken parquet file: {str(error).splitlines()[0]}", "Fetch or write it again."
        ) from None
    return list(enumerate(rows, start=1))


def _gunzip(data: bytes, path: Path) -> bytes:
    try:
        return gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FalconerError(
            f"'{path}' is a broken gzip file: {error}.", "It was cut off or changed; fetch or write it again."
        ) from None


def _unzstd(data: bytes, path: Path) -> bytes:
    try:
        import zstandard
    except ImportError:
        raise FalconerError(f"Reading '{path}' needs zstandard.", "pip install zstandard, or use gzip.") from None
    parts = []
    try:
        while data:
            frame = zstandard.ZstdDecompressor().decompressobj()
            parts.append(frame.decompress(data))
            if not frame.eof:
                raise FalconerError(f"'{path}' is a broken zstd file: it ends too early.", "Fetch or write it again.")
            data = frame.unused_data
    except zstandard.ZstdError as error:
        raise FalconerError(f"'{path}' is a broken zstd file: {error}.", "Fetch or write it again.") from None
    return b"".join(parts)


def is_json_lines(text: str) -> bool:
    # Only "\n" ends a line here: str.splitlines would also cut at U+2028, which JSON allows inside a string.
    first, second = ([line for line in text[:4_000_000].split("\n") if line.strip()] + ["", ""])[:2]
    if not first.lstrip().startswith("{"):
        return False
    try:
        json.loads(first)
    except json.JSONDecodeError:
        return second.lstrip().startswith("{")
    return bool(second)


def _json_lines(text: str) -> Iterator[Row | RowError]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            yield RowError(
                "row", f"is not JSON: {error.msg} (column {error.colno}). One whole object belongs on one line.", number
            )
