"""Errors of the machine are one line and exit code 2; an error of ours keeps its traceback."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from falconer.errors import FalconerError
from falconer.uncaught import ended_by_signals, explained

SOURCE = Path(__file__).parents[1] / "src"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FalconerError("Wrong.", "Mend it."), "Wrong. Mend it."),
        (ModuleNotFoundError("No module", name="sacrebleu"), "The package 'sacrebleu' is not installed"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory"),
        (OSError(errno.ENOSPC, "No space left on device", "out.txt"), "No space left on the disk for 'out.txt'"),
        (OSError(errno.ENAMETOOLONG, "File name too long", b"x" * 300), "File name too long"),
        (FileNotFoundError(errno.ENOENT, "gone", "/nowhere/run/a/b"), "'/nowhere' was removed or renamed while"),
        (OSError(errno.EFBIG, "File too large"), "The output can't be written: File too large"),
    ],
)
def test_what_is_told(error: Exception, said: str) -> None:
    found = explained(error)
    assert found is not None and said in str(found)


@pytest.mark.parametrize(
    "error", [RuntimeError("a bug"), KeyError("x"), OSError(errno.ENOENT, "gone", "x"), OSError("no number"),
              ModuleNotFoundError("No module", name="falconer.nothing")]
)  # fmt: skip
def test_what_is_a_bug(error: Exception) -> None:
    assert explained(error) is None


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "FALCONER": f"{sys.executable} -m falconer"}
    return subprocess.run(
        ["sh", "-c", command], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only on Linux")
def test_a_full_disk_behind_stdout(tmp_path: Path) -> None:
    done = shell("$FALCONER train --keys > /dev/full", tmp_path)
    assert done.returncode == 2
    said = "The output can't be written: No space left on device. Free some space, or write it elsewhere."
    assert done.stderr == f"falconer: {said}\n"


def test_closed_streams_do_not_end_a_command_or_get_its_files(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("hello there\thello you\n" * 3)
    done = shell("$FALCONER score a.tsv --json <&- >&-", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = shell("$FALCONER score none.tsv 2>&-", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


# The signal arrives while the new file is written aside.
SIGNALLED = """
import os, sys
from falconer import __main__
from falconer.files import replace
real, number = replace.sync_file, int(sys.argv.pop())
def sync(*arguments):
    os.kill(os.getpid(), number)
    real(*arguments)
replace.sync_file = sync
__main__.main()
"""


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGINT, "falconer: interrupted.\n"), (signal.SIGTERM, "falconer: terminated (SIGTERM).\n"),
        (signal.SIGHUP, ""),
    ],
)  # fmt: skip
def test_a_signal_ends_a_command_in_one_line_and_leaves_nothing(
    number: signal.Signals, said: str, tmp_path: Path
) -> None:
    (tmp_path / "y.jsonl").write_text("old")
    given = str(Path(__file__).parent / "data" / "fixtures" / "falconer.jsonl")
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, "data", "convert", given, "y.jsonl", str(int(number))],
        env=os.environ | {"PYTHONPATH": str(SOURCE)}, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (128 + number, said)
    assert [path.name for path in tmp_path.iterdir()] == ["y.jsonl"] and (tmp_path / "y.jsonl").read_text() == "old"


def test_under_nohup_a_closed_terminal_ends_nothing(tmp_path: Path) -> None:
    given = Path(__file__).parent / "data" / "fixtures" / "falconer.jsonl"
    (tmp_path / "signalled.py").write_text(SIGNALLED)
    command = f"{sys.executable} signalled.py data convert {given} y.jsonl {int(signal.SIGHUP)}"
    done = shell(f"trap '' HUP; exec {command}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "y.jsonl").stat().st_size


def test_handlers_of_a_program_that_calls_falconer_stay() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ended_by_signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
