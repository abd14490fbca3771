"""From a file, the embedded sample or a hub data set to dialogues, whatever the format."""

import gzip
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path

from falconer.data import formats, hub
from falconer.data.formats import FORMATS, packed
from falconer.data.formats.delimited import read_table
from falconer.data.formats.encodings import decode
from falconer.data.formats.json_text import is_json_lines, json_splits
from falconer.data.formats.messages import to_json
from falconer.data.formats.parquet import parquet_rows
from falconer.data.formats.rows import Parsed, Quirks, Row, RowError, clean, clean_text
from falconer.data.mend import mended
from falconer.errors import FalconerError, nearest
from falconer.files import replace_file
from falconer.records import Dialogue

__all__ = ["FORMATS", "BadRow", "Loaded", "available_splits", "load_dialogues", "write_dialogues"]

SAMPLE = "persona-chat-sample"
_SAMPLE_SPLITS = ("train", "valid", "test")

# Other names of the same split.
_ALIASES = {"validation": "valid", "val": "valid", "dev": "valid"}
_ADDRESS = re.compile(r"[a-z][a-z0-9+]*://", re.IGNORECASE)
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_DATA_SUFFIXES = packed.DATA_SUFFIXES + packed.ARCHIVE_SUFFIXES


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
    splits: dict[str, Sequence[Row | RowError]] = field(default_factory=dict)
    all_splits: tuple[str, ...] = ()


def load_dialogues(source: str, *, split: str = "train", format: str = "auto", on_bad_row: str = "stop") -> Loaded:
    """Load the dialogues of one split.

    Args:
        source: a file (also packed, or an archive), "persona-chat-sample" (embedded), or a hub data set "owner/name".
        split: one of `available_splits(source)`; "validation", "val" and "dev" are "valid".
        format: one of FORMATS; "auto" looks at the content.
        on_bad_row: "stop" at the first row that can't be used, or "skip" such rows and list them.

    Raises:
        FalconerError: no such source or split, a file that can't be read, a bad row, or no dialogue left.
    """
    if format not in FORMATS:
        raise FalconerError(f"Unknown format '{format}'.", nearest(format, FORMATS))
    if on_bad_row not in ("stop", "skip"):
        raise FalconerError(f"on_bad_row='{on_bad_row}' is not allowed.", nearest(on_bad_row, ("stop", "skip")))
    split = _ALIASES.get(split, split)
    content = _open(source, split, format)
    quirks: Quirks = Counter()
    if content.text_format:
        text, found = clean_text(content.text, quirks), content.text_format
        parsed = formats.parse_text(text, found, content.name, quirks)
    else:
        rows = content.splits[split]
        _check_any(rows, content, split)
        found = formats.detect(rows, content.path) if format == "auto" else format
        parsed = formats.parse_rows((clean(row, quirks) for row in rows), found, content.name, quirks)
    dialogues, bad_rows = _collect(parsed, content, on_bad_row, quirks)
    dialogues = _unique_ids([mended(dialogue, quirks) for dialogue in dialogues], quirks)
    digest = content.sha256 or hashlib.sha256("\n".join(map(to_json, dialogues)).encode()).hexdigest()
    counted = {name: number for name, number in sorted(quirks.items()) if number}
    others = tuple(name for name in content.all_splits or content.splits if name != split)
    return Loaded(tuple(dialogues), found, (content.path,), digest, tuple(bad_rows), counted, others)


def available_splits(source: str) -> tuple[str, ...]:
    """Return the splits of a source: train, valid, test by these names, others by their own; a plain file is "train".

    Raises:
        FalconerError: the source can't be read.
    """
    if source == SAMPLE:
        return _SAMPLE_SPLITS
    if _is_hub_name(source):
        return tuple(_ALIASES.get(split, split) for split in hub.load_splits(source))
    files = _by_split(source)
    if len(files) > 1:
        return tuple(files)
    (file,) = files.values()
    # Only one JSON object can hold several splits; nothing else has to be parsed here.
    if file.data[:4] == b"PAR1" or not decode(file.data, file.path).lstrip().startswith("{"):
        return ("train",)
    return tuple(_read(file, "auto").splits)


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


def _open(source: str, split: str, format: str) -> _Content:
    """Read a source; of the sample and of a hub data set only the one split."""
    if source == SAMPLE:
        _check_split(source, split, _SAMPLE_SPLITS)
        file = resources.files("falconer").joinpath("assets", SAMPLE, f"{split}.jsonl.gz")
        data = gzip.decompress(file.read_bytes())
        rows = json_splits(data.decode(), source, formats.is_row)["train"]
        return _Content(
            f"{SAMPLE}/{split}.jsonl.gz",
            split,
            "line",
            hashlib.sha256(data).hexdigest(),
            splits={split: rows},
            all_splits=_SAMPLE_SPLITS,
        )
    if _is_hub_name(source):
        splits = {_ALIASES.get(key, key): rows for key, rows in hub.load_splits(source).items()}
        _check_split(source, split, splits)
        rows = list(enumerate(splits[split], start=1))
        return _Content(source, split, "row", "", splits={split: rows}, all_splits=tuple(splits))
    files = _by_split(source)
    if len(files) == 1:
        (only,) = files.values()
        content = _read(only, format)
        _check_split(source, split, content.splits)
        return content
    _check_split(source, split, files)
    content = _read(files[split], format)
    if len(content.splits) > 1:
        raise FalconerError(
            f"'{content.path}' holds several splits itself: {', '.join(content.splits)}.",
            "Unpack it and give that file.",
        )
    return replace(content, splits={split: next(iter(content.splits.values()))}, all_splits=tuple(files))


def _by_split(source: str) -> dict[str, packed.DataFile]:
    """Return the files of an archive by the splits that they are named after; a single file stands under ""."""
    found = packed.read_files(_existing(source))
    if len(found) == 1:
        return {"": found[0]}
    named = dict(zip(packed.split_names([file.name for file in found]) or (), found, strict=True))
    return {split: named[split] for split in _SAMPLE_SPLITS if split in named}


def _read(file: packed.DataFile, format: str) -> _Content:
    path, name = file.path, packed.file_name(file.name)
    digest = hashlib.sha256(file.data).hexdigest()
    if file.data[:4] == b"PAR1":
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
                f"'{path}' holds the splits {', '.join(map(repr, splits))}, of which two are the validation split.",
                "Rename one of them, or leave it out.",
            )
        return _Content(path, name, unit, digest, splits=named)
    header, rows = read_table(text, formats.is_row)
    if format == "auto":
        # Text that is no table is no known format, whatever the number of its commas: the header tells.
        formats.detect([(1, dict.fromkeys(header, "x"))], path)
    if not rows:
        raise FalconerError(f"'{path}' holds a header and no row behind it.", "Check how it was made.")
    return _Content(path, name, "line", digest, splits={"train": rows})


def _check_any(rows: Sequence[Row | RowError], content: _Content, split: str) -> None:
    """Raise a FalconerError if not one row could be read: then it isn't the rows that are wrong."""
    if not rows:
        where = f" in the split '{split}'" if len(content.splits) > 1 else ""
        raise FalconerError(f"'{content.path}' holds no rows{where}.", "Check how it was made.")
    first = rows[0]
    if isinstance(first, RowError) and all(isinstance(row, RowError) for row in rows):
        raise FalconerError(
            f"'{content.path}', {content.unit} {first.line}: {first.field} {first.message}",
            "No other row can be read either.",
        )


def _check_split(source: str, split: str, known: Iterable[str]) -> None:
    if split not in known:
        raise FalconerError(f"'{source}' has no split '{split}'.", nearest(split, known))


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
                "To go on without such rows: --on-bad-row skip, or data.on_bad_row=skip for train and evaluate.",
            )
    if not dialogues:
        why = "".join(
            f" {len(bad_rows)} rows are bad; the first, {content.unit} {bad.line}: {bad.field} {bad.message}"
            for bad in bad_rows[:1]
        )
        left_out = [f"{name} ({number})" for name, number in quirks.items() if number and "left out" in name]
        why += f" What it holds: {', '.join(left_out)}." if left_out else ""
        raise FalconerError(f"'{content.path}' holds no dialogue.{why}", "Check the file, or name its --format.")
    return dialogues, bad_rows


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
    path = Path(source)
    # os.path, because pathlib fails on names that no file can have (too long, a NUL).
    if os.path.exists(source):
        return path
    if _ADDRESS.match(source):
        raise FalconerError(
            f"'{source}' is an address; falconer reads files.",
            f"Download it first: curl -L -O '{source}', then give the file.",
        )
    try:
        beside = [str(file) for file in path.parent.iterdir() if file.is_file() and not file.name.startswith(".")]
    except (OSError, ValueError):
        beside = []
    hint = nearest(source, [*beside, SAMPLE])
    other = f"Give a file, '{SAMPLE}' (embedded), or a data set of the hub, 'owner/name'."
    raise FalconerError(f"There is no file '{source}'.", hint if "Did you" in hint else other)
