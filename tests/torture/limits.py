"""Limits of the machine while a command runs: memory, the size of a file, a small disk, a disk that can't be written.

They are the kernel's own: what a library writes or allocates by itself fails, too, in the middle of a file.
"""

import ctypes
import ctypes.util
import os
import random
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torture.failing import not_one_line
from torture.kills import finished
from torture.worlds import FINISHED, Ended, World, difference
from torture.writers import Scene

KINDS = ("memory", "size of a file", "small disk", "read-only")
_NEW_NAMESPACE, _REC, _PRIVATE, _REMOUNT, _READ_ONLY, _BIND = 0x20000, 0x4000, 1 << 18, 32, 1, 4096


def limited_training(world: World, dice: random.Random) -> dict[str, Any]:
    """Train under a limit, then go on without it, and compare."""
    world.start_with(None)
    kind, size = _limit(world, dice, _size(world.evaluated))
    ended = world.command(world.train, first=limiter(kind, size, world.place))
    _restore(world.place)
    found = {"stopped": int(ended.code != FINISHED), "limit": kind, "bytes": size}
    if ended.code == FINISHED:
        return found | {"wrong": difference(world.run, world.trained)}
    return found | {"wrong": _told(ended) or finished(world)}


def limited_writer(world: World, scene: Scene, dice: random.Random) -> dict[str, Any]:
    """Let another command work under a limit: the old state is there afterwards, or the new one."""
    scene.start(world)
    kind, size = _limit(world, dice, _size(scene.new) - _size(scene.old) // 2)
    ended = scene.act(world, first=limiter(kind, size, world.place))
    _restore(world.place)
    found = {"stopped": int(ended.code != FINISHED), "limit": kind, "bytes": size}
    return found | {"wrong": _told(ended) or scene.wrong(world)}


def limiter(kind: str, size: int, place: Path) -> Callable[[], Callable[[], None] | None]:
    """Return what puts a process under a limit.

    Args:
        size: bytes beyond what it has now, or of a file, or of the disk beyond what it holds.

    Returns:
        A function that returns, for a small disk, what keeps its content when the process ends, see `_restore`.
    """

    def install() -> Callable[[], None] | None:
        if kind == "memory":
            most = _virtual() + size
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        elif kind == "size of a file":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        else:
            _own_disk(place, size, read_only=kind == "read-only")
        return (lambda: _keep(place)) if kind == "small disk" else None

    return install


def can_mount() -> bool:
    """Return whether this process may mount a file system, tried in a fork."""
    child = os.fork()
    if child == 0:
        try:
            _new_mounts()
            os._exit(0)
        except OSError:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _limit(world: World, dice: random.Random, written: int) -> tuple[str, int]:
    kind = dice.choice(KINDS if can_mount() else KINDS[:2])
    if kind == "memory":
        return kind, dice.randrange(1, 400 * 2**20)
    largest = max(path.stat().st_size for path in world.evaluated.rglob("*") if path.is_file())
    return kind, dice.randrange(1, max(2, written if kind == "small disk" else 2 * largest))


def _told(ended: Ended) -> str:
    return "" if ended.code == FINISHED else not_one_line(ended)


def _own_disk(place: Path, size: int, *, read_only: bool) -> None:
    """Put a small disk, or one that can't be written, at a folder, for this process alone.

    What the folder holds is copied to the small disk.
    """
    _new_mounts()
    if read_only:
        _mount(str(place), str(place), None, _BIND)
        _mount(None, str(place), None, _BIND | _REMOUNT | _READ_ONLY)
        return
    _keep(place)
    _mount("tmpfs", str(place), "tmpfs", 0, f"size={_size(place) + 4096 * 4 + size}")
    shutil.copytree(_kept(place), place, symlinks=True, dirs_exist_ok=True)


def _kept(place: Path) -> Path:
    return place.with_name("kept")


def _keep(place: Path) -> None:
    """Copy a disk that is about to disappear."""
    shutil.rmtree(_kept(place), ignore_errors=True)
    shutil.copytree(place, _kept(place), symlinks=True)


def _restore(place: Path) -> None:
    """Let the place be as the small disk was at its end, if there was one."""
    if _kept(place).exists():
        shutil.rmtree(place)
        _kept(place).rename(place)


def _new_mounts() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NAMESPACE) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    _mount(None, "/", None, _REC | _PRIVATE)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    if libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]) != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")


def _size(place: Path) -> int:
    """Return what a folder takes on a disk, in whole blocks."""
    return sum(-(-path.lstat().st_size // 4096) * 4096 + 4096 for path in place.rglob("*"))


def _virtual() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    return int(pages) * resource.getpagesize()
