"""Errors of the disk at each operation of a training and of an evaluation: one line, and nothing lost."""

import errno
import os
import sys
from collections.abc import Callable
from typing import Any

from kill_points import changes
from torture.worlds import FINISHED, World, difference

# A full disk, a used-up quota, a limit on the size of a file, a file system that became read-only, a broken disk.
ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def fail_training(world: World, number: int, error: int) -> dict[str, Any]:
    """Let an operation of a training fail, go on with the run, and compare it with an undisturbed one.

    Returns:
        As the functions in kills.py; `ended` says that the training had fewer operations.
    """
    world.start_with(None)
    failed = world.command(world.train, first=_fail_at(number, error))
    found = {"seed": number, "error": errno.errorcode[error], "moments": [number], "wrong": ""}
    if failed.code == FINISHED and not difference(world.run, world.trained):
        return found | {"ended": True}
    if failed.code != FINISHED and not failed.is_one_line:
        return found | {"wrong": f"not one line: {failed.err[-700:]}", "ended": False}
    is_run = (world.run / "config.yaml").exists()
    again = world.command(world.resume if is_run else world.train)
    if again.code != FINISHED:
        return found | {"wrong": f"lost: {again.err[-500:]}", "ended": False}
    return found | {"wrong": difference(world.run, world.trained), "ended": False}


def fail_evaluation(world: World, number: int, error: int) -> dict[str, Any]:
    """Let an operation of an evaluation fail: the folder still has the evaluation before."""
    world.start_with(world.evaluated)
    failed = world.command([*world.evaluate, "evaluate.max_replies=2"], first=_fail_at(number, error))
    found = {"seed": number, "error": errno.errorcode[error], "moments": [number], "wrong": ""}
    if failed.code == FINISHED:
        return found | {"ended": True}
    if not failed.is_one_line:
        return found | {"wrong": f"not one line: {failed.err[-700:]}", "ended": False}
    read = world.command(["report", "--run", str(world.run)])
    return found | {"wrong": "" if read.code == FINISHED else f"lost: {read.err[-500:]}", "ended": False}


def _fail_at(number: int, error: int) -> Callable[[], None]:
    """Return what lets every operation in a run's folder fail from that number on, as a full disk does."""

    def install() -> None:
        left = number

        def count(event: str, about: tuple[Any, ...]) -> None:
            nonlocal left
            # A full disk refuses neither removing nor renaming.
            if changes(event, about) and event not in ("os.remove", "os.rmdir") and "/place/" in str(about[0]):
                left -= 1
                if left < 0:
                    raise OSError(error, os.strerror(error), str(about[0]))

        sys.addaudithook(count)

    return install
