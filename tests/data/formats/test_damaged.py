"""Damaged files of every format end in an error that names the place, or in whole dialogues; never otherwise."""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corpus_files import FIXTURES
from falconer.data.sources import FORMATS, load_dialogues
from falconer.errors import FalconerError

FILES = sorted(path for path in FIXTURES.iterdir() if path.name != "README.md")
JUNK: list[Any] = [
    None, 5, True, [], {}, "", " ", "x", ["x"], [["x"]], [None], {"a": 1}, [{"text": "x"}], "['a', 'b']", "[1, 2]", "[",
    float("nan"), 10**30, "a\tb", "your persona: x", [[0, "x"]], {"text": None}, {"id": [], "text": {}},
]  # fmt: skip
MARKS = ["\t", " ", "|", "\\", ":", '"', "1", "__eou__", "persona:", "\u2028", "\x00", "[", "'", "99999999999", "\n"]


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where in nested lists and objects each value stands."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield (*place, key)
        yield from places(value[key], (*place, key))


def damage_rows(rows: Any, rng: random.Random) -> Any:
    rows = copy.deepcopy(rows)
    for _ in range(rng.randint(1, 3)):
        found = list(places(rows))
        if not found:
            break
        *outer, last = rng.choice(found)
        inner = rows
        for key in outer:
            inner = inner[key]
        if rng.random() < 0.7:
            inner[last] = copy.deepcopy(rng.choice(JUNK))
        else:
            del inner[last]
    return rows


def damage_text(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(lines))
        cut = rng.randint(0, len(lines[at]))
        kind = rng.randrange(4)
        if kind == 0:
            lines.insert(at, rng.choice(lines))
        elif kind == 1:
            lines[at] = lines[at][:cut] + rng.choice(MARKS) + lines[at][cut:]
        elif kind == 2:
            lines[at] = lines[at][:cut]
        elif len(lines) > 1:
            del lines[at]
    return "\n".join(lines)


def check(path: Path, format: str = "auto") -> None:
    for on_bad_row in ("stop", "skip"):
        try:
            loaded = load_dialogues(str(path), format=format, on_bad_row=on_bad_row)
        except FalconerError as error:
            assert "\n" not in str(error) and error.hint
            continue
        for dialogue in loaded.dialogues:
            assert dialogue.replies
            texts = [turn.text for turn in dialogue.turns] + [*dialogue.persona, *dialogue.partner_persona]
            assert all(text and text == text.strip() for text in texts)


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rng=st.randoms(use_true_random=False))
def test_damaged_files(path: Path, tmp_path: Path, rng: random.Random) -> None:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        text = json.dumps(damage_rows(json.loads(text), rng))
    elif path.suffix == ".jsonl":
        rows = damage_rows([json.loads(line) for line in text.splitlines()], rng)
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
    else:
        text = damage_text(text, rng)
    (tmp_path / path.name).write_text(text, encoding="utf-8")
    check(tmp_path / path.name)


@pytest.mark.parametrize("format", FORMATS)
def test_files_read_as_another_format(format: str) -> None:
    for path in FILES:
        check(path, format)
