"""The command line, in this process or in one of its own."""

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from falconer import cli

SOURCE = Path(__file__).parents[1] / "src"


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str


def falconer(*arguments: str | Path, stdin: str = "") -> Result:
    """Run a command in this process, which has the heavy libraries loaded already."""
    out, err = io.StringIO(), io.StringIO()
    given = mock.patch.multiple(sys, argv=["falconer", *map(str, arguments)], stdin=io.StringIO(stdin))
    with given, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as exit:
            return Result(exit.code if isinstance(exit.code, int) else int(bool(exit.code)), *map(_text, (out, err)))
    return Result(0, _text(out), _text(err))


def ok(*arguments: str | Path) -> Result:
    """Run a command in this process that must succeed."""
    result = falconer(*arguments)
    assert result.code == 0, result.err
    return result


def falconer_process(*arguments: str, cwd: Path, stdin: str = "") -> Result:
    """Run a command as a user does, every warning an error."""
    path = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-m", "falconer", *map(str, arguments)],
        env=environment, cwd=cwd, input=stdin, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)


def _text(stream: io.StringIO) -> str:
    return stream.getvalue()
