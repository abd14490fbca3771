"""Errors of the disk at each operation of a command that writes: one line, and nothing lost."""

import errno
import os
import sys
from collections.abc import Callable
from typing import Any

from kill_points import changes
from torture.kills import changed_path, finished
from torture.worlds import FINISHED, Ended, World, difference
from torture.writers import Scene

# A full disk, a used-up quota, a limit on the size of a file, a file system that became read-only, a broken disk.
ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def fail_training(world: World, number: int, error: int) -> dict[str, Any]:
    """Let an operation of a training fail and all that follow, go on with the run, and compare it."""
    world.start_with(None)
    failed = world.command(world.train, first=fail_at(number, error))
    found = {"stopped": int(failed.code != FINISHED), "error": errno.errorcode[error]}
    if failed.code == FINISHED:
        return found | {"wrong": difference(world.run, world.trained)}
    return found | {"wrong": not_one_line(failed) or finished(world)}


def fail_writer(world: World, scene: Scene, number: int, error: int) -> dict[str, Any]:
    """Let an operation of another command fail and all that follow: the old state is there, or the new one."""
    scene.start(world)
    failed = scene.act(world, first=fail_at(number, error))
    found = {"stopped": int(failed.code != FINISHED), "error": errno.errorcode[error]}
    return found | {"wrong": ("" if failed.code == FINISHED else not_one_line(failed)) or scene.wrong(world)}


def not_one_line(failed: Ended) -> str:
    """Return what a command printed that failed otherwise than in one line; "" for one line."""
    return "" if failed.is_one_line else f"exit code {failed.code}, not one line: {failed.err.strip()[-700:]}"


def fail_at(number: int, error: int) -> Callable[[], None]:
    """Return what lets every operation in the place fail from that number on, as a full disk does."""

    def install() -> None:
        made = 0

        def count(event: str, about: tuple[Any, ...]) -> None:
            nonlocal made
            # A full disk refuses neither removing nor renaming.
            if changes(event, about) and event not in ("os.remove", "os.rmdir"):
                path = changed_path(event, about)
                made += "/place/" in path
                if "/place/" in path and made > number:
                    raise OSError(error, os.strerror(error), path)

        sys.addaudithook(count)

    return install
