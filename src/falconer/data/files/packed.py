"""From a path to the bytes of data files: gzip, zstd, bzip2 and xz are unpacked, zip and tar archives opened.

Nothing is written to disk, whatever an archive's members are called, and links in it are not followed.
"""

import bz2
import difflib
import gzip
import io
import lzma
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import BinaryIO

from falconer.data.files.foreign import refuse_foreign, refuse_zip_of
from falconer.errors import FalconerError

# A packed file may unpack to so much, all members together; a few hundred kilobytes can hold terabytes of blanks.
MAX_GIB = 2.0
# Text takes a tenth of its size, packed; what takes less than a thousandth is nothing but blanks.
_MAX_RATIO, _SMALL = 1000, 1 << 26
_CHUNK = 1 << 22

_AGAIN = "The file is truncated or damaged; download or write it again."
DATA_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".parquet", ".gz", ".zst", ".bz2", ".xz")
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz")
# What stands beside the data in many archives.
_ABOUT = ("readme", "license", "licence", "notice", "citation", "changelog", "dataset_info", "dataset_infos")
_SPLITS: Mapping[str, str] = MappingProxyType(
    {"train": "train", "valid": "valid", "val": "valid", "dev": "valid", "test": "test"}
)
# "train", "training", "TrainSet", "validation", but not "trainer" and "latest".
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_SPLIT_WORD = re.compile(r"(train|valid|val|dev|test)(?:ing|ation|set|data|split)*")
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError,
           OverflowError, struct.error, NotImplementedError, RuntimeError, IndexError)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file, or a member of an archive.

    Args:
        path: the file, for messages; `archive!member` in an archive.
        name: the file's or the member's own name with its folders.
        data: its bytes, unpacked.
    """

    path: str
    name: str
    data: bytes


def read_files(path: Path, max_gib: float = MAX_GIB) -> list[DataFile]:
    """Return a file's content, or the data files of an archive; all by their first bytes, whatever their names.

    Args:
        max_gib: the largest size of what a compressed file or an archive unpacks to; it is unpacked only so far.

    Raises:
        FalconerError: no such file, a folder, an unreadable, broken or huge file, or one that holds no data.
    """
    if os.path.isdir(path):
        raise _folder_error(path)
    # os.path, because pathlib fails on names that no file can have (too long, a NUL).
    if not os.path.exists(path):
        raise no_file(str(path), "Check the name.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FalconerError(
            f"'{path}' can't be read: {error.strerror}.", "Check its name and your permission to read it."
        ) from None
    limit = int(max_gib * 2**30)
    data = _unpacked(data, str(path), limit)
    if data[:4] in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"):
        return _members(_zip_members(data, str(path)), str(path), limit)
    if b"\0" in data[:512] and _is_tar(data):
        return _members(_tar_members(data, str(path)), str(path), limit)
    refuse_foreign(data, str(path))
    return [DataFile(str(path), path.name, data)]


def no_file(path: str, way_out: str, others: Iterable[str] = ()) -> FalconerError:
    """Return the error for a file that is not there.

    Args:
        way_out: the hint where no other name is like this one.
        others: names that could be meant beside those of the files in its folder.
    """
    try:
        beside = [str(file) for file in Path(path).parent.iterdir() if file.is_file() and not file.name.startswith(".")]
    except (OSError, ValueError):
        beside = []
    # Neither a common folder nor a common ending makes two names alike.
    alike = [name for name in (*beside, *others) if difflib.get_close_matches(_stem(path), [_stem(name)], cutoff=0.6)]
    close = difflib.get_close_matches(path, alike, n=1, cutoff=0)
    return FalconerError(f"There is no file '{path}'.", f"Did you mean '{close[0]}'?" if close else way_out)


def _stem(path: str) -> str:
    own = path.rpartition("/")[2]
    return own.partition(".")[0] or own


def _folder_error(path: Path) -> FalconerError:
    try:
        names = sorted(file.name for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    except OSError as error:
        return FalconerError(f"'{path}' is a folder that can't be read: {error.strerror}.", "Give one of its files.")
    inside = [name for name in names if _is_data_name(name) or name.endswith(ARCHIVE_SUFFIXES)] or names
    some = f", e.g. {', '.join(inside[:5])}" if len(inside) > 1 else f": {inside[0]}" if inside else ""
    if "dataset_dict.json" in names or "state.json" in names:
        return FalconerError(
            f"'{path}' is a folder written by datasets.save_to_disk.",
            "Save it as a file: datasets.load_from_disk(FOLDER)['train'].to_parquet('train.parquet').",
        )
    return FalconerError(f"'{path}' is a folder.", f"Give one of its files{some}.")


def _unpacked(data: bytes, path: str, limit: int) -> bytes:
    """Return the bytes, unpacked if they are gzip, zstd, bzip2 or xz."""
    stream: BinaryIO
    if data.startswith(b"\x1f\x8b"):
        kind, stream = "gzip", gzip.GzipFile(fileobj=io.BytesIO(data))  # type: ignore[assignment]
    elif data.startswith(b"BZh"):
        kind, stream = "bzip2", bz2.BZ2File(io.BytesIO(data))  # type: ignore[assignment]
    elif data.startswith(b"\xfd7zXZ\0"):
        kind, stream = "xz", lzma.LZMAFile(io.BytesIO(data))  # type: ignore[assignment]  # noqa: SIM115
    else:
        return _unzstd(data, path, limit) if data.startswith(b"\x28\xb5\x2f\xfd") else data
    try:
        return _read_all(stream, path, limit, len(data))
    except _BROKEN as error:
        raise FalconerError(f"'{path}' is a broken {kind} file: {_one_line(error)}.", _AGAIN) from None


def _unzstd(data: bytes, path: str, limit: int) -> bytes:
    try:
        import zstandard
    except ImportError:
        raise FalconerError(f"Reading '{path}' needs zstandard.", "pip install zstandard, or use gzip.") from None
    parts: list[bytes] = []
    size = start = 0
    frame = zstandard.ZstdDecompressor().decompressobj()
    try:
        # A thousand bytes may unpack to megabytes, so they go in by little pieces.
        while start < len(data):
            piece = data[start : start + 4096]
            parts.append(frame.decompress(piece))
            start += len(piece)
            size += len(parts[-1])
            _check_size(size, path, limit, len(data))
            if frame.eof:
                start -= len(frame.unused_data)
                if start < len(data):
                    frame = zstandard.ZstdDecompressor().decompressobj()
    except zstandard.ZstdError as error:
        raise FalconerError(f"'{path}' is a broken zstd file: {_one_line(error)}.", _AGAIN) from None
    if not frame.eof:
        raise FalconerError(f"'{path}' is a broken zstd file: it ends too early.", _AGAIN)
    return b"".join(parts)


def _read_all(file: BinaryIO, path: str, limit: int, packed_size: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := file.read(_CHUNK):
        parts.append(part)
        size += len(part)
        _check_size(size, path, limit, packed_size)
    return b"".join(parts)


def _check_size(size: int, path: str, limit: int, packed_size: int) -> None:
    if size > limit:
        raise FalconerError(
            f"'{path}' unpacks to more than {limit / 2**30:.3g} GiB, which is the limit for compressed data.",
            "If that is the right file, raise the limit with data.max_gib=N, or decompress it and give the result.",
        )
    if size > max(_SMALL, _MAX_RATIO * packed_size):
        raise FalconerError(
            f"'{path}' has {packed_size:,} bytes and unpacks to more than {_MAX_RATIO:,} times as many, which no "
            "dialogues do.",
            "If that is the right file, decompress it and give the result.",
        )


def _is_tar(data: bytes) -> bool:
    try:
        tarfile.open(fileobj=io.BytesIO(data), mode="r:").close()
    except _BROKEN:
        return False
    return True


# A member's name, and how to read it: (limit) -> bytes.
_Member = tuple[str, Callable[[int], bytes]]


def _tar_members(data: bytes, path: str) -> list[_Member]:
    archive = tarfile.open(fileobj=io.BytesIO(data), mode="r:")  # noqa: SIM115, it holds bytes, no file

    def reader(member: tarfile.TarInfo) -> Callable[[int], bytes]:
        def read(limit: int) -> bytes:
            _check_size(member.size, path, limit, member.size)
            file = archive.extractfile(member)
            content = file.read() if file else b""
            if len(content) < member.size:
                raise EOFError("it ends too early")
            return content

        return read

    try:
        return [(member.name, reader(member)) for member in archive if member.isreg()]
    except _BROKEN as error:
        raise FalconerError(f"'{path}' is a broken tar archive: {_one_line(error)}.", _AGAIN) from None


def _zip_members(data: bytes, path: str) -> list[_Member]:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except _BROKEN as error:
        raise FalconerError(f"'{path}' is a broken zip archive: {_one_line(error)}.", _AGAIN) from None
    refuse_zip_of(archive.namelist(), path)

    def reader(member: zipfile.ZipInfo) -> Callable[[int], bytes]:
        def read(limit: int) -> bytes:
            if member.flag_bits & 1:
                raise FalconerError(f"'{path}!{member.filename}' is encrypted.", "Unpack it with its password.")
            with archive.open(member) as file:
                name = f"{path}!{member.filename}"
                return _read_all(file, name, limit, member.compress_size)  # type: ignore[arg-type]

        return read

    return [(member.filename, reader(member)) for member in archive.infolist() if not member.is_dir()]


def _members(members: list[_Member], path: str, limit: int) -> list[DataFile]:
    """Read the data files among an archive's members; what systems and authors put beside them is left out."""
    shown = [(_printable(name), read) for name, read in members]
    visible = [
        (name, read)
        for name, read in shown
        if not any(part.startswith((".", "__MACOSX")) for part in name.split("/") if part not in ("", ".", ".."))
    ]
    data_files = [(name, read) for name, read in visible if _is_data_name(name)] or visible
    if not data_files:
        raise FalconerError(f"'{path}' is an archive without a data file.", "Check how the archive was made.")
    if len(data_files) > 1 and split_names([name for name, _ in data_files]) is None:
        names = [name for name, _ in data_files]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        raise FalconerError(
            f"'{path}' contains {len(names)} data files: {', '.join(names[:8])}{more}.",
            "Unpack it and give one of them. (One file alone is read, and files named train, valid and test are read "
            "as splits.)",
        )
    found: list[DataFile] = []
    left = limit
    for name, read in data_files:
        where = f"{path}!{name}"
        try:
            data = _unpacked(read(left), where, left)
        except _BROKEN as error:
            raise FalconerError(f"'{where}' can't be unpacked: {_one_line(error)}.", _AGAIN) from None
        if data.startswith(b"PK\x03\x04") or (b"\0" in data[:512] and _is_tar(data)):
            raise FalconerError(
                f"'{where}' is an archive within an archive (or an Excel file).", "Unpack the outer archive."
            )
        refuse_foreign(data, where)
        left -= len(data)
        found.append(DataFile(where, name, data))
    return found


def split_names(names: list[str]) -> list[str] | None:
    """Return the split that each file is named after, or None if one has no such name or two have the same.

    "train", "TrainingSet", "my-valid.v2", "dev" and "test/part" say it; in the file's name, else in its folders'.
    """
    found = [split for split in map(_split_name, names) if split]
    return found if len(found) == len(names) == len(set(found)) else None


def _split_name(name: str) -> str:
    for part in reversed(PurePosixPath(name).parts):
        found = {_SPLITS[match[1]] for word in _WORD.findall(part) if (match := _SPLIT_WORD.fullmatch(word.lower()))}
        if found:
            return found.pop() if len(found) == 1 else ""
    return ""


def _is_data_name(name: str) -> bool:
    own = name.rpartition("/")[2].lower()
    return own.endswith(DATA_SUFFIXES) and own.partition(".")[0] not in _ABOUT


def _printable(name: str) -> str:
    """Return a member's name without what a terminal would obey or what is no character."""
    return "".join(char if char.isprintable() else "?" for char in name)


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")


def file_name(path: str) -> str:
    """Return a file's name without folders and endings, for the ids of its dialogues."""
    own = path.rpartition("/")[2]
    return _printable(own.partition(".")[0] or own)
