"""Mutating: bytes that are damaged, JSON with junk among its values, and the files that this is done to."""

import contextlib
import copy
import csv
import io
import json
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from falconer import config

TESTS = Path(__file__).parents[1]
FIXTURES = sorted(path for path in (TESTS / "data" / "fixtures").iterdir() if path.suffix != ".md")
PIECES = [
    b"{", b"}", b"[", b"]", b'"', b"'", b",", b";", b":", b"\t", b"\n", b"\r", b"\\", b"\\u0000", b"\\ud800", b"\0",
    b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\x1b]0;x\x07", b"\xc2\x9b1m", b"\xe2\x80\xae", b"\xe2\x80\xa8", b"null",
    b"NaN", b"-Infinity", b"1e999", b"true", b"[]", b"{}", b'""', b"9" * 5000, b"[" * 3000, b'{"a":' * 300, b"- " * 300,
    b"&a ", b"*a", b"!!binary ", b"2024-01-01", b"<<: ", b"role", b"[/x]", b"your persona: ", b"__eou__", b"['a\nb']",
    b" " * 3000, b"\x1f\x8b", b"PK\x03\x04", b"prediction", b"reference",
]  # fmt: skip
JUNK: list[Any] = [
    None, 5, -1, 0, True, [], {}, "", " ", "x", "\ud83d", "\0", "\x1b[2J", ["x"], [["x"]], [None], {"a": 1}, 10**30,
    -(10**400), float("nan"), float("inf"), 1e308, "[1, 2]", "['a\nb']", [[[[[]]]]], {"": ""}, "x" * 3000, "../x",
    "/etc", 2**32, 0.5, "(((a+)+)+)+b",
]  # fmt: skip


class TooLong(BaseException):
    """An input takes longer than it may; no `Exception`, which somebody could catch."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: Any) -> NoReturn:
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def damaged(data: bytes, dice: random.Random, pieces: Sequence[bytes] = PIECES) -> bytes:
    """Return bytes with one to six changes: other bytes, lost, repeated and foreign pieces, a cut end."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 3, 6))):
        place, kind = dice.randrange(len(changed) + 1), dice.randrange(5)
        if kind == 0:
            changed[place : place + 1] = bytes([dice.randrange(256)])
        elif kind == 1:
            del changed[place : place + dice.randrange(1, 30)]
        elif kind == 2:
            changed[place : place + dice.randrange(6)] = dice.choice(pieces)
        elif kind == 3:
            other = dice.randrange(len(changed) + 1)
            changed[place:place] = changed[other : other + dice.randrange(80)]
        elif dice.random() < 0.3:
            del changed[place:]
    return bytes(changed)


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where in nested lists and objects each value stands."""
    keys = value if isinstance(value, dict) else range(min(len(value), 20)) if isinstance(value, list) else ()
    for key in keys:
        yield (*place, key)
        yield from places(value[key], (*place, key))


def with_junk(tree: Any, dice: random.Random) -> Any:
    """Return a JSON value with one to three of its values replaced, removed or renamed."""
    tree = copy.deepcopy(tree)
    for _ in range(dice.randint(1, 3)):
        if not (found := list(places(tree))):
            return dice.choice(JUNK)
        *outer, last = dice.choice(found)
        inner = tree
        for key in outer:
            inner = inner[key]
        if dice.random() < 0.8:
            inner[last] = copy.deepcopy(dice.choice(JUNK))
        elif isinstance(inner, dict) and dice.random() < 0.5:
            inner[str(dice.choice(JUNK))[:40]] = inner.pop(last)
        else:
            del inner[last]
    return tree


def mutated(data: bytes, dice: random.Random) -> bytes:
    """Return a file's bytes with damaged bytes or, if they are JSON, with junk among its values."""
    if dice.random() < 0.5:
        return damaged(data, dice)
    try:
        return json.dumps(with_junk(json.loads(data), dice), ensure_ascii=dice.random() < 0.8).encode(
            "utf-8", "surrogatepass"
        )
    except ValueError:
        lines = data.split(b"\n")
    place = dice.randrange(len(lines))
    try:
        lines[place] = json.dumps(with_junk(json.loads(lines[place]), dice)).encode()
    except ValueError:
        return damaged(data, dice)
    return b"\n".join(lines)


def packed_fixture(dice: random.Random) -> bytes:
    import bz2
    import gzip
    import lzma

    import zstandard

    data = dice.choice(FIXTURES).read_bytes()
    changed = mutated(data, dice)
    way = dice.randrange(12)
    if way == 0:
        return changed.decode("utf-8", "replace").encode("utf-16")
    if way < 5:
        pack = (gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress)[way - 1]
        return pack(changed) if dice.random() < 0.5 else damaged(pack(data), dice)
    return changed


def predictions(dice: random.Random) -> bytes:
    rows = [
        {"id": 1, "dialogue_id": "d", "turn": 1, "persona": ["i ski ."], "history": ["hi", "yo"], "prediction": "hi\nu",
         "reference": 'he said "hi"', "ended": True, "ranks": {"by_mean": 1, "by_sum": 2, "num_candidates": 3}},
        {"id": 2, "dialogue_id": "e", "prediction": "", "references": ["é\t{", "[x]"], "likelihood": None},
        {"id": 3, "prediction": "ok", "gold": "3", "turn": 10**30,
         "likelihood": {"nll": 3.5, "nll_text": 3, "num_tokens": 4, "num_words": 2, "num_chars": 9}},
    ]  # fmt: skip
    table = io.StringIO()
    csv.writer(table, delimiter=dice.choice("\t,;")).writerows(
        [["prediction", "reference"], ['a "b"', "c\nd"], ["", "e"]]
    )
    texts = ["\n".join(map(json.dumps, rows)), json.dumps(rows), table.getvalue(), 'he "said"\tyes\n"no"\t"""b"""\n']
    return mutated(dice.choice(texts).encode(), dice)


def preset(dice: random.Random) -> bytes:
    names = config.preset_names()
    file = TESTS.parent / "src" / "falconer" / "presets" / f"{dice.choice(names)}.yaml"
    return damaged(file.read_bytes(), dice)


def overrides(dice: random.Random) -> bytes:
    keys = [f"{section}.{key}" for section, found in config.all_keys().items() for key in found]
    values = [*JUNK, "null", "1e9999", "１", "0x10", "1_000", "true", "nan", "auto", "-0", "1" * 5000]
    text = "\n".join(f"{dice.choice(keys)}={dice.choice(values)}" for _ in range(dice.randint(1, 3)))
    data = text.encode("utf-8", "surrogatepass")
    return damaged(data, dice) if dice.random() < 0.3 else data


def file_of(folder: Path, names: tuple[str, ...]) -> Callable[[random.Random], bytes]:
    def make(dice: random.Random) -> bytes:
        name = dice.choice(names)
        return name.encode() + b"\n" + mutated((folder / name).read_bytes(), dice)

    return make
