"""Whenever a writer dies, what it was to replace is the old one or the new one, and the next writer clears up.

`kill_points.py` kills before every call into the operating system, and at random ones.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kill_points import write

TESTS = Path(__file__).parents[1]
# One operation swaps two folders; where there is none, two renames do.
kinds = pytest.mark.parametrize(("kind", "swap"), [("file", ""), ("folder", "exchange"), ("folder", "renames")])


def start(*arguments: object) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": f"{TESTS.parent / 'src'}{os.pathsep}{TESTS}"}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def campaign(folder: Path, kind: str, swap: str, seed: int) -> list[dict[str, Any]]:
    """Return what was found after each death; a mixture ends the program with an error."""
    process = start(TESTS / "kill_points.py", folder, kind, swap, seed)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, f"seed {seed}: {out[-2000:]}\n{err}"
    return [json.loads(line) for line in out.splitlines()]


@kinds
def test_a_writer_killed_before_every_call(tmp_path: Path, kind: str, swap: str) -> None:
    rows = campaign(tmp_path, kind, swap, -1)
    for row in rows:
        assert row["read"] in (row["before"], row["written"]), row
        assert swap == "renames" or row["was_there"] or row["before"] is None, f"away for a moment: {row}"
    assert rows[-1]["ended"] and rows[-1]["read"] == rows[-1]["written"] and not rows[-1]["left"]
    killed = rows[:-1]
    assert len(killed) > 80, "points to die at"
    assert any(row["left"] for row in killed) and any(row["read"] == row["written"] for row in killed)
    if swap == "renames":
        assert not all(row["was_there"] for row in killed), "some died between the two renames"


@kinds
@pytest.mark.parametrize("seed", range(3))
def test_writers_and_readers_killed_at_random(tmp_path: Path, kind: str, swap: str, seed: int) -> None:
    rows = campaign(tmp_path, kind, swap, seed)
    for row in rows:
        assert row["read"] in (row["before"], row["written"]), row
        assert not row["ended"] or row["read"] == row["written"], row
    assert 8 < sum(row["ended"] for row in rows) < len(rows) - 8
    assert rows[-1]["left"] == []


HOLDS = """
import sys
from pathlib import Path
from falconer.files.replace import replace_file, replace_folder
with globals()[sys.argv[2]](Path(sys.argv[1])) as aside:
    target = aside if sys.argv[2] == "replace_file" else aside / "x"
    target.write_text("of the slow one")
    print(aside, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_living_writer_keeps_what_it_has_written(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    slow = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(target), f"replace_{kind}"], text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(TESTS.parent / "src")},
    )  # fmt: skip
    assert slow.stdout and slow.stdin
    aside = Path(slow.stdout.readline().strip())
    for version in range(3):
        write(target, kind, version)
        assert aside.exists(), "its writer lives"
    slow.stdin.close()
    assert slow.wait(timeout=60) == 0
    slow.stdout.close()
    found = target if kind == "file" else target / "x"
    assert found.read_text() == "of the slow one"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


WRITES = """
import sys
from pathlib import Path
from falconer.files import replace as files
from kill_points import write
if sys.argv[3] == "renames":
    files._exchange = lambda one, other: False
for version in range(20):
    write(Path(sys.argv[1]), sys.argv[2], version)
"""


@kinds
def test_writers_at_the_same_time(tmp_path: Path, kind: str, swap: str) -> None:
    """A reader opens the target all the while; where folders are swapped at once it is never away."""
    target = tmp_path / "target"
    writers = [start("-c", WRITES, target, kind, swap) for _ in range(3)]
    deadline, seen = time.monotonic() + 240, 0
    while any(writer.poll() is None for writer in writers):
        assert time.monotonic() < deadline
        seen += target.exists()
        assert swap == "renames" or not seen or target.exists()
    for writer in writers:
        _, err = writer.communicate()
        assert writer.returncode == 0, err
    assert seen and [path.name for path in tmp_path.iterdir()] == ["target"]
