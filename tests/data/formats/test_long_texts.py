"""No text takes time that grows with its square, whichever format and field it is in."""

import csv
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corpus_files import FIXTURES
from falconer.data.sources import load_dialogues
from falconer.data.text import natural, spaced
from falconer.errors import FalconerError

FILES = sorted(path for path in FIXTURES.iterdir() if path.suffix in (".json", ".jsonl", ".csv", ".txt"))
# What made a regular expression try each place from each place: beginnings of a mark that does not end.
TEXTS = (
    "[user 1 " * 3000, "u. s. " * 4000, "( " * 10_000, '" ' * 10_000, "x" + " " * 20_000 + "x",
    "x" + "\r" * 20_000 + "x", "x" + "\n" * 20_000 + "x", "<|" * 10_000, "* " * 10_000, "['a'," * 5000,
    "user 1:" * 3000, "\\" * 20_000,
)  # fmt: skip
# A square would take 20,000 times 20,000 steps.
MOST_S = 4.0


def changed(value: Any, text: str) -> Iterator[Any]:
    """Yield a row with one of its texts replaced, the first three of a list."""
    if isinstance(value, str):
        yield value + text
    elif isinstance(value, list):
        for place in range(min(3, len(value))):
            yield from ([*value[:place], item, *value[place + 1 :]] for item in changed(value[place], text))
    elif isinstance(value, dict):
        for key in value:
            yield from (value | {key: item} for item in changed(value[key], text))


def files_with(path: Path, text: str) -> Iterator[str]:
    """Yield the content of a file with a long text in one of the fields of its first row."""
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".csv":
        rows = list(csv.reader(io.StringIO(content)))[:3]
        for column in range(len(rows[1])):
            row = [cell + text if place == column else cell for place, cell in enumerate(rows[1])]
            target = io.StringIO()
            csv.writer(target).writerows([rows[0], row, *rows[2:]])
            yield target.getvalue()
    elif path.suffix == ".txt":
        yield from (content + text, text + content, content.replace("\n", f"{text}\n", 1))
    else:
        lines = content.splitlines() if path.suffix == ".jsonl" else [content]
        first = json.loads(lines[0])
        if isinstance(first, list):
            first = first[:1]
        yield from (json.dumps(row) for row in list(changed(first, text))[:8])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_long_text_in_every_field(path: Path, tmp_path: Path) -> None:
    target = tmp_path / path.name
    # Another text for each field, and all of them over all formats.
    for number, text in enumerate(TEXTS[FILES.index(path) % 3 :: 3]):
        for content in list(files_with(path, text))[number % 2 :: 2]:
            target.write_text(content, encoding="utf-8")
            start = time.process_time()
            try:
                load_dialogues(str(target), on_bad_row="skip")
            except FalconerError as error:
                assert len(str(error)) < 2000
            assert time.process_time() - start < MOST_S, (path.name, text[:12])


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:8]))
def test_text_styles(text: str) -> None:
    start = time.process_time()
    natural(text)
    spaced(text)
    assert time.process_time() - start < MOST_S
