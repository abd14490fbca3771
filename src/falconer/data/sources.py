"""Loading dialogues from a file, the embedded sample or a hub data set, in any format."""

import gzip
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from falconer.consoles import counted
from falconer.data import formats, hub
from falconer.data.files import packed
from falconer.data.files.delimited import read_table
from falconer.data.files.encodings import decode
from falconer.data.files.json_text import is_json_lines, json_splits
from falconer.data.files.parquet import is_parquet, parquet_rows
from falconer.data.files.row import Row, RowError
from falconer.data.formats import FORMATS
from falconer.data.formats.messages import to_json
from falconer.data.formats.rows import Parsed, Quirks, clean, clean_text
from falconer.data.mend import mended
from falconer.errors import FalconerError, nearest
from falconer.files.replace import replace_file
from falconer.records import Dialogue

__all__ = ["FORMATS", "BadRow", "Loaded", "Reading", "Source", "load_dialogues", "open_source", "write_dialogues"]

SAMPLE = "persona-chat-sample"
_SAMPLE_SPLITS = ("train", "valid", "test")

# Other names of the same split.
_ALIASES: Mapping[str, str] = MappingProxyType({"validation": "valid", "val": "valid", "dev": "valid"})
_ADDRESS = re.compile(r"[a-z][a-z0-9+]*://", re.IGNORECASE)
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_DATA_SUFFIXES = packed.DATA_SUFFIXES + packed.ARCHIVE_SUFFIXES


@dataclass(frozen=True, slots=True)
class Reading:
    """How sources are read.

    Args:
        format: one of FORMATS; "auto" looks at the content.
        on_bad_row: "stop" at the first row that can't be used, or "skip" such rows and list them.
        max_gib: the largest size of what a compressed file or an archive unpacks to.
    """

    format: str = "auto"
    on_bad_row: str = "stop"
    max_gib: float = packed.MAX_GIB


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was left out.

    Args:
        path: the file or data set.
        line: its line in a text file; its number, from 1, in JSON lists, parquet and hub data sets.
        field: where in the row.
        message: what is wrong, what was expected, how to mend it.
    """

    path: str
    line: int
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """The dialogues of one split, and what they came from.

    Args:
        format: the format that was found or given.
        paths: what was read.
        sha256: of the content: the unpacked bytes of a file, the dialogues in our format for a hub data set.
        bad_rows: rows left out because they can't be read; empty unless on_bad_row is "skip".
        quirks: how often each known quirk of the format was handled.
        other_splits: the splits of the source that were not loaded.
    """

    dialogues: tuple[Dialogue, ...]
    format: str
    paths: tuple[str, ...]
    sha256: str
    bad_rows: tuple[BadRow, ...] = ()
    quirks: dict[str, int] = field(default_factory=dict)
    other_splits: tuple[str, ...] = ()

    @property
    def num_replies(self) -> int:
        return sum(len(dialogue.replies) for dialogue in self.dialogues)


@dataclass(frozen=True, slots=True)
class _Content:
    """What a source holds: text of a format that is no table, or rows by split."""

    path: str
    name: str
    unit: str
    sha256: str
    text_format: str | None = None
    text: str = ""
    splits: Mapping[str, Sequence[Row | RowError]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Source:
    """A file, the embedded sample or a hub data set, read once for all of its splits.

    Args:
        name: as the user gives it.
        format: one of FORMATS.
        splits: train, valid, test by these names, others by their own; a plain file is "train".
    """

    name: str
    format: str
    splits: tuple[str, ...]
    _content_of: Callable[[str], _Content]

    def load(self, split: str = "train", *, on_bad_row: str = "stop") -> Loaded:
        """Return the dialogues of one split.

        Args:
            split: one of `splits`; "validation", "val" and "dev" are "valid".
            on_bad_row: "stop" at the first row that can't be used, or "skip" such rows and list them.

        Raises:
            FalconerError: no such split, a bad row, or no dialogue left.
        """
        if on_bad_row not in ("stop", "skip"):
            raise FalconerError(
                f"on_bad_row='{on_bad_row}' is not a valid value.", nearest(on_bad_row, ("stop", "skip"))
            )
        split = _ALIASES.get(split, split)
        if split not in self.splits:
            raise FalconerError(f"'{self.name}' has no split '{split}'.", nearest(split, self.splits))
        content = self._content_of(split)
        quirks: Quirks = Counter()
        if content.text_format:
            text, found = clean_text(content.text, quirks), content.text_format
            parsed = formats.parse_text(text, found, content.name, quirks)
        else:
            rows = content.splits[split]
            _check_any(rows, content, split)
            found = formats.detect(rows, content.path) if self.format == "auto" else self.format
            parsed = formats.parse_rows((clean(row, quirks) for row in rows), found, content.name, quirks)
        dialogues, bad_rows = _collect(parsed, content, on_bad_row, quirks)
        dialogues = _usable([mended(dialogue, quirks) for dialogue in dialogues], content, quirks)
        digest = content.sha256 or hashlib.sha256("\n".join(map(to_json, dialogues)).encode()).hexdigest()
        counted = {name: number for name, number in sorted(quirks.items()) if number}
        others = tuple(name for name in self.splits if name != split)
        return Loaded(tuple(dialogues), found, (content.path,), digest, tuple(bad_rows), counted, others)


def open_source(source: str, format: str = "auto", max_gib: float = packed.MAX_GIB) -> Source:
    """Read a source, and find its splits.

    Args:
        source: a file (also packed, or an archive), "persona-chat-sample" (embedded), or a hub data set "owner/name".
        format, max_gib: see `Reading`.

    Raises:
        FalconerError: no such source, or a file that can't be read.
    """
    if format not in FORMATS:
        raise FalconerError(f"Unknown format '{format}'.", nearest(format, FORMATS))
    if source == SAMPLE:
        return Source(source, format, _SAMPLE_SPLITS, _sample)
    if _is_hub_name(source):
        splits = {_ALIASES.get(key, key): rows for key, rows in hub.load_splits(source).items()}
        return Source(source, format, tuple(splits), lambda split: _hub_content(source, split, splits[split]))
    files = _by_split(source, max_gib)
    if len(files) > 1:
        # Each file of an archive is parsed when its split is asked for, and that is once.
        return Source(source, format, tuple(files), lambda split: _member(files[split], split, format))
    (only,) = files.values()
    content = _read(only, format)
    return Source(source, format, tuple(content.splits), lambda _: content)


def load_dialogues(source: str, *, split: str = "train", format: str = "auto", on_bad_row: str = "stop") -> Loaded:
    """Load the dialogues of one split; to load several of one source, see `open_source`.

    Args:
        source, format: see `open_source`.
        split, on_bad_row: see `Source.load`.

    Raises:
        FalconerError: no such source or split, a file that can't be read, a bad row, or no dialogue left.
    """
    return open_source(source, format).load(split, on_bad_row=on_bad_row)


def write_dialogues(dialogues: Iterable[Dialogue], path: str | Path) -> None:
    """Write dialogues in our format; packed if the name ends in .gz or .zst. Equal input gives equal bytes.

    Raises:
        FalconerError: the disk is full, or the folder can't be written to.
    """
    data = "".join(f"{to_json(dialogue)}\n" for dialogue in dialogues).encode()
    target = Path(path)
    if target.suffix == ".gz":
        data = gzip.compress(data, compresslevel=9, mtime=0)
    elif target.suffix == ".zst":
        import zstandard

        data = zstandard.ZstdCompressor(level=15).compress(data)
    with replace_file(target) as aside:
        aside.write_bytes(data)


def _is_hub_name(source: str) -> bool:
    # "data/train" beside a folder "data" is a mistyped path, not a data set of the owner "data".
    is_local = os.path.exists(source) or os.path.isdir(Path(source).parent) or source.endswith(_DATA_SUFFIXES)
    return bool(_HUB_NAME.fullmatch(source)) and not is_local


def _sample(split: str) -> _Content:
    file = resources.files("falconer").joinpath("assets", SAMPLE, f"{split}.jsonl.gz")
    data = gzip.decompress(file.read_bytes())
    rows = json_splits(data.decode(), SAMPLE, formats.is_row)["train"]
    digest = hashlib.sha256(data).hexdigest()
    return _Content(f"{SAMPLE}/{split}.jsonl.gz", split, "line", digest, splits={split: rows})


def _hub_content(name: str, split: str, rows: Iterable[Any]) -> _Content:
    return _Content(name, split, "row", "", splits={split: list(enumerate(rows, start=1))})


def _member(file: packed.DataFile, split: str, format: str) -> _Content:
    content = _read(file, format)
    if len(content.splits) > 1:
        raise FalconerError(
            f"'{content.path}' is one file of an archive, but contains several splits: {', '.join(content.splits)}.",
            "Unpack the archive and give this file alone.",
        )
    return replace(content, splits={split: next(iter(content.splits.values()))})


def _by_split(source: str, max_gib: float) -> dict[str, packed.DataFile]:
    """Return the files of an archive by the splits that they are named after; a single file stands under ""."""
    found = packed.read_files(_existing(source), max_gib)
    if len(found) == 1:
        return {"": found[0]}
    named = dict(zip(packed.split_names([file.name for file in found]) or (), found, strict=True))
    return {split: named[split] for split in _SAMPLE_SPLITS if split in named}


def _read(file: packed.DataFile, format: str) -> _Content:
    path, name = file.path, packed.file_name(file.name)
    if not file.data.strip():
        raise FalconerError(f"'{path}' is empty.", "Check how it was written; docs/data.md shows each format.")
    digest = hashlib.sha256(file.data).hexdigest()
    if is_parquet(file.data):
        return _Content(path, name, "row", digest, splits={"train": parquet_rows(file.data, path)})
    text = decode(file.data, path)
    if text_format := formats.text_format(text, format, path):
        return _Content(path, name, "line", digest, text_format=text_format, text=text, splits={"train": []})
    if text.lstrip()[:1] in ("{", "["):
        splits = json_splits(text, path, formats.is_row)
        # FoCus and others call their only list so.
        splits = {"train": splits["data"]} if list(splits) == ["data"] else splits
        unit = "line" if is_json_lines(text) else "row"
        named: dict[str, Sequence[Row | RowError]] = {_ALIASES.get(key, key): rows for key, rows in splits.items()}
        if len(named) < len(splits):
            raise FalconerError(
                f"'{path}' contains the splits {', '.join(map(repr, splits))}; two of these are validation splits.",
                "Rename or remove one of them.",
            )
        return _Content(path, name, unit, digest, splits=named)
    header, rows = read_table(text, formats.is_row)
    if format == "auto":
        # Text that is no table is no known format, whatever the number of its commas: the header tells.
        formats.detect([(1, dict.fromkeys(header, "x"))], path)
    if not rows:
        raise FalconerError(f"'{path}' has a header, but no rows.", "Check how it was written.")
    return _Content(path, name, "line", digest, splits={"train": rows})


def _check_any(rows: Sequence[Row | RowError], content: _Content, split: str) -> None:
    """Raise a FalconerError if not one row could be read: then it isn't the rows that are wrong."""
    if not rows:
        where = f" in the split '{split}'" if len(content.splits) > 1 else ""
        raise FalconerError(f"'{content.path}' has no rows{where}.", "Check how it was written.")
    first = rows[0]
    if isinstance(first, RowError) and all(isinstance(row, RowError) for row in rows):
        raise FalconerError(
            f"'{content.path}', {content.unit} {first.line}: {first.field} {first.message}",
            "None of the other rows can be read either; docs/data.md shows each format.",
        )


def _collect(parsed: Parsed, content: _Content, on_bad_row: str, quirks: Quirks) -> tuple[list[Dialogue], list[BadRow]]:
    dialogues: list[Dialogue] = []
    bad_rows: list[BadRow] = []
    for item in parsed:
        if isinstance(item, Dialogue):
            dialogues.append(item)
            continue
        bad = BadRow(content.path, item.line, item.field, item.message)
        bad_rows.append(bad)
        if on_bad_row == "stop":
            raise FalconerError(
                f"'{bad.path}', {content.unit} {bad.line}: {bad.field} {bad.message}",
                "To leave such rows out: --on-bad-row skip, or data.on_bad_row=skip for train and evaluate.",
            )
    if not dialogues:
        why = "".join(
            f" {counted(len(bad_rows), 'row')} can't be read; the first is {content.unit} {bad.line}: "
            f"{bad.field} {bad.message}"
            for bad in bad_rows[:1]
        )
        left_out = [f"{name} ({number})" for name, number in quirks.items() if number and "left out" in name]
        why += f" Found instead: {', '.join(left_out)}." if left_out else ""
        raise FalconerError(f"'{content.path}' contains no dialogue.{why}", "Check the file, or give its --format.")
    return dialogues, bad_rows


def _usable(dialogues: list[Dialogue], content: _Content, quirks: Quirks) -> list[Dialogue]:
    """Return the dialogues that have a reply to learn after turns were merged, each with an id of its own."""
    kept = [dialogue for dialogue in dialogues if dialogue.replies]
    quirks["dialogue whose only reply continues one that is not learned left out"] += len(dialogues) - len(kept)
    if not kept:
        raise FalconerError(
            f"'{content.path}' contains no dialogue: each reply continues a turn that is not learned.",
            "Check which turns are marked as not to be learned.",
        )
    named = [
        dialogue if dialogue.id else replace(dialogue, id=f"{content.name}-{number:05d}")
        for number, dialogue in enumerate(kept, start=1)
    ]
    return _unique_ids(named, quirks)


def _unique_ids(dialogues: list[Dialogue], quirks: Quirks) -> list[Dialogue]:
    """Return the dialogues with a number behind each id that was used before: predictions name a dialogue by its id."""
    used = {dialogue.id for dialogue in dialogues}
    if len(used) == len(dialogues):
        return dialogues
    seen: set[str] = set()
    result = []
    for dialogue in dialogues:
        if dialogue.id in seen:
            quirks["repeated id numbered"] += 1
            new = next(name for name in _numbered(dialogue.id) if name not in used)
            used.add(new)
            dialogue = replace(dialogue, id=new)
        seen.add(dialogue.id)
        result.append(dialogue)
    return result


def _numbered(name: str) -> Iterator[str]:
    number = 2
    while True:
        yield f"{name}#{number}"
        number += 1


def _existing(source: str) -> Path:
    # os.path, because pathlib fails on names that no file can have (too long, a NUL).
    if os.path.exists(source):
        return Path(source)
    if _ADDRESS.match(source):
        raise FalconerError(
            f"'{source}' is a URL, but falconer reads local files and hub data sets only.",
            f"Download it (curl -L -O '{source}'), then give the file.",
        )
    way_out = f"Give a file, '{SAMPLE}' (embedded), or a data set on the hub, 'owner/name'."
    raise packed.no_file(source, way_out, [SAMPLE])
