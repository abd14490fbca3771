"""Die before any one call into the operating system: a forked child counts those that it is about to make.

Run as a program, which imports nothing that has threads: `python kill_points.py FOLDER KIND SWAP SEED`. It prints a
line of JSON for each writer that it killed, and one for the last, which it let live. A seed of -1: every point in turn.
"""

import json
import os
import random
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from falconer.files import replace as files

KILLED = 9
NAMES = ("weights", "settings", "inner/more")


def die_before(number: int, work: Callable[[], None]) -> bool:
    """Do `work` in a child that dies before its system call of that number; tell whether it came to its end before."""
    child = os.fork()
    if child == 0:
        left = number

        def count(frame: Any, event: str, function: Any) -> None:
            nonlocal left
            if event == "c_call" and _module(function) in ("posix", "fcntl", "io", "_io"):
                left -= 1
                if left < 0:
                    os._exit(KILLED)

        sys.setprofile(count)
        work()
        sys.setprofile(None)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED), code
    return code == 0


def die_before_operation(number: int, work: Callable[[], None]) -> bool:
    """As `die_before`, where only what changes a file or folder counts: opening to write, renaming, removing."""
    child = os.fork()
    if child == 0:
        left = number

        def count(event: str, about: tuple[Any, ...]) -> None:
            nonlocal left
            if changes(event, about):
                left -= 1
                if left < 0:
                    os._exit(KILLED)

        sys.addaudithook(count)
        work()
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED), code
    return code == 0


def changes(event: str, about: tuple[Any, ...]) -> bool:
    """Return whether an audit event of Python is about a change of the file system."""
    if event == "open":
        return isinstance(about[2], int) and bool(about[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")


def _module(function: Any) -> str:
    """Return the module of a C function, or of the class that a method belongs to."""
    return getattr(function, "__module__", None) or type(getattr(function, "__self__", None)).__module__


def write(path: Path, kind: str, version: int) -> None:
    """Write a version of a file, or of a folder of three files."""
    if kind == "file":
        with files.replace_file(path) as aside:
            aside.write_text(content(version))
        return
    with files.replace_folder(path) as aside:
        for name in NAMES:
            (aside / name).parent.mkdir(exist_ok=True)
            (aside / name).write_text(content(version))


def content(version: int) -> str:
    return f"version {version}\n" * 3000


def read(path: Path, kind: str) -> int | None:
    """Return the version at `path`, None for nothing; a mixture or half of one is an error."""
    if kind == "file":
        texts = [path.read_text()] if path.exists() else []
    else:
        files.recover_folder(path)
        texts = [(path / name).read_text() for name in NAMES] if path.exists() else []
    if not texts:
        return None
    version = int(texts[0].split()[1])
    assert texts == [content(version)] * len(texts), "a mixture, or half of one"
    return version


def report(path: Path, kind: str, **about: Any) -> int | None:
    was_there = path.exists()
    version = read(path, kind)
    hidden = [name for name in os.listdir(path.parent) if name.startswith(".")]
    print(json.dumps(about | {"was_there": was_there, "read": version, "left": hidden}))
    return version


def every_point(folder: Path, kind: str) -> None:
    """Kill a writer at its first, second, third ... call; those after it find what it left."""
    path = folder / "new" / "target"
    version: int | None = None
    if kind == "folder":  # so that there is one to be moved away; a file begins with nothing
        write(path, kind, 0)
        version = 0
    number, ended = 0, False
    while not ended:
        number += 1
        ended = die_before(number, partial(write, path, kind, number))
        path.parent.mkdir(exist_ok=True)
        version = report(path, kind, before=version, written=number, ended=ended)


def random_points(folder: Path, kind: str, seed: int) -> None:
    """Kill writers and readers at random; what they leave piles up."""
    path, dice = folder / "target", random.Random(seed)
    write(path, kind, 0)
    version: int | None = 0
    for number in range(1, 60):
        # Half of them early: a writer's first work is to clear up.
        point = dice.randrange(dice.choice((60, 600)))
        ended = die_before(point, partial(write, path, kind, number))
        if dice.random() < 0.3:
            die_before(dice.randrange(60), partial(files.recover_folder, path))
        version = report(path, kind, before=version, written=number, ended=ended, point=point)
    write(path, kind, 1000)
    report(path, kind, before=version, written=1000, ended=True)


if __name__ == "__main__":
    folder, kind, swap, seed = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    if swap == "renames":
        files._exchange = lambda one, other: False
    every_point(folder, kind) if seed < 0 else random_points(folder, kind, seed)
