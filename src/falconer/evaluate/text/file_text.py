"""What text a file holds, whatever its compression and encoding, and where a row of it stands."""

import gzip
import re
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from falconer.errors import FalconerError

# First bytes of files that hold no text, and the way out.
_FOREIGN = {
    b"PK\x03\x04": ("a zip archive, or an Excel file", "Unpack it; save a sheet as CSV in UTF-8."),
    b"PAR1": ("a parquet file", "Save it as JSON Lines, in pandas: to_json(FILE, orient='records', lines=True)."),
    b"BZh": ("compressed with bzip2", "Unpack it, or use gzip or zstd."),
    b"\xfd7zXZ": ("compressed with xz", "Unpack it, or use gzip or zstd."),
    b"\x80\x04": ("a pickle", "A pickle can run code, so it is never loaded. Save it as JSON Lines."),
    b"\x80\x05": ("a pickle", "A pickle can run code, so it is never loaded. Save it as JSON Lines."),
    b"\xd0\xcf\x11\xe0": ("an Excel file", "Save the sheet as CSV in UTF-8."),
}
# UTF-32's mark in front of UTF-16's, which begins alike.
_MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


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


def read_text(path: Path) -> str:
    r"""Return a file's text: UTF-8, or UTF-16 and UTF-32 by their mark; unpacked from gzip and zstd by its first bytes.

    A file whose lines end in returns alone has them replaced by line feeds.

    Raises:
        FalconerError: no such file, not to be read, not whole, no text, or a line that is not UTF-8.
    """
    content = _read_bytes(path)
    for start, (what, way_out) in _FOREIGN.items():
        if content.startswith(start):
            raise FalconerError(f"'{path}' is {what}, not text.", way_out)
    mark = next((mark for mark in _MARKS if content.startswith(mark)), None)
    if mark:
        try:
            text = content.decode(_MARKS[mark])
        except UnicodeDecodeError as error:
            problem = f"begins as {_MARKS[mark].upper()} and is not (byte {error.start + 1})"
            raise FalconerError(f"'{path}' {problem}.", "Save the file as UTF-8.") from None
    elif b"\0" in content:
        problem = "holds NUL bytes: it is no text, or UTF-16 without a byte order mark"
        raise FalconerError(f"'{path}' {problem}.", "Save the file as UTF-8.")
    else:
        text = _decode(content, path)
    return text.replace("\r", "\n") if "\n" not in text else text


def lines_of(text: str) -> list[str]:
    """Return the lines without their ends. Only line feeds end one (and a return before it): a reply may hold other
    characters that Python splits at."""
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r") for line in lines]


def kind_of(value: Any) -> str:
    """Return what a JSON value is, in a message's words."""
    if isinstance(value, float) and value != value:
        return "NaN"
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def shown(text: str, length: int = 60) -> str:
    """Return a text of a file in quotes for a message: short, and control characters as escapes, since a terminal
    would obey them."""
    short = text if len(text) <= length else text[: length - 3] + "..."
    return "'" + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short) + "'"


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise FalconerError(f"There is no file '{path}'.", "Give a predictions file (.jsonl, .tsv or .txt).") from None
    except IsADirectoryError:
        raise FalconerError(f"'{path}' is a folder.", "Give the predictions file in it.") from None
    except OSError as error:
        raise FalconerError(f"'{path}' can't be read: {error.strerror}.", "Give a file that you may read.") from None
    if content.startswith(b"\x1f\x8b"):
        try:
            return gzip.decompress(content)
        except (gzip.BadGzipFile, EOFError, zlib.error):
            raise FalconerError(f"'{path}' is not a whole gzip file.", "Compress it again.") from None
    return _unpack_zstd(content, path) if content.startswith(b"\x28\xb5\x2f\xfd") else content


def _unpack_zstd(content: bytes, path: Path) -> bytes:
    import zstandard

    parts = []
    try:
        while content:
            frame = zstandard.ZstdDecompressor().decompressobj()
            parts.append(frame.decompress(content))
            if not frame.eof:
                raise zstandard.ZstdError("it ends too early")
            content = frame.unused_data
    except zstandard.ZstdError:
        raise FalconerError(f"'{path}' is not a whole zstd file.", "Compress it again.") from None
    return b"".join(parts)


def _decode(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The codec counts behind the mark that it has passed over.
        before = error.object[: error.start]
        number, byte = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise FalconerError(f"{path}, line {number}: is not UTF-8 (byte {byte}).", "Save the file as UTF-8.") from None
