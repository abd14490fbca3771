"""Power loss, by the order of system calls: what a disk holds of which only the synced parts are certain.

Two disks are modelled beside the real one. On the first, nothing is there that was not synced: neither the content of a
file nor an entry of a folder. On the second, entries of folders reach the disk at once and contents only when they are
synced, as on a file system that writes its metadata first; unsynced files have no bytes.
"""

import mmap
import os
import shutil
import stat
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torture.kills import finished
from torture.worlds import FINISHED, KILLED, Ended, World
from torture.writers import Scene

MODELS = ("nothing unsynced", "names first")


class Disks:
    """The disks of a process that works in a folder, until its power fails at the sync or rename of a number.

    Args:
        top: the folder that is followed; it exists, and is on the disk with all that it holds.
        number: of the sync or rename before which the power fails.
        into: where the disk is written then.
    """

    def __init__(self, top: Path, model: str, number: int, into: Path) -> None:
        self.top, self.model, self.left, self.into = top, model, number, into
        self.contents: dict[int, bytes] = {}
        self.entries: dict[int, dict[str, int]] = {}
        self.kinds: dict[int, bool] = {}  # whether it is a folder
        self.on_count: Callable[[], Any] = lambda: None

    def install(self) -> None:
        """Follow this process's syncs and renames."""
        for path in (self.top, *self.top.rglob("*")):
            self._sync_folder(path) if path.is_dir() else self._sync_file(path)
        real_sync, real_replace = os.fsync, os.replace

        def fsync(descriptor: int) -> None:
            self._count()
            real_sync(descriptor)
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if path.is_relative_to(self.top):
                self._sync_folder(path) if path.is_dir() else self._sync_file(path)

        def replace(source: Any, target: Any, **options: Any) -> None:
            self._count()
            real_replace(source, target, **options)

        os.fsync, os.replace = fsync, replace  # type: ignore[assignment]

    def _count(self) -> None:
        self.left -= 1
        self.on_count()
        if self.left < 0:
            self._write(os.stat(self.top).st_ino, self.top, self.into)
            os.kill(os.getpid(), 9)

    def _sync_file(self, path: Path) -> None:
        self.contents[os.stat(path).st_ino] = path.read_bytes()

    def _sync_folder(self, path: Path) -> None:
        found = {}
        for entry in os.scandir(path):
            about = entry.stat(follow_symlinks=False)
            found[entry.name] = about.st_ino
            self.kinds[about.st_ino] = stat.S_ISDIR(about.st_mode)
        self.entries[os.stat(path).st_ino] = found

    def _write(self, number: int, path: Path, into: Path) -> None:
        """Write what the disk holds of a folder, which is named by its inode."""
        into.mkdir()
        if self.model == "names first" and path.is_dir():
            self._sync_folder(path)
        for name, inner in self.entries.get(number, {}).items():
            if self.kinds[inner]:
                self._write(inner, path / name, into / name)
            else:
                (into / name).write_bytes(self.contents.get(inner, b""))


def lose_power(world: World, model: str, number: int) -> dict[str, Any]:
    """Let the power fail before a sync or rename of a training, go on with what the disk holds, and compare."""
    world.start_with(None)
    ended = _without_power(world, model, number, lambda first: world.command(world.train, first=first))
    if ended.code not in (KILLED, FINISHED):
        return _found(ended, model) | {"wrong": f"exit code {ended.code}: {ended.err.strip()[-500:]}"}
    return _found(ended, model) | {"wrong": finished(world)}


def lose_power_writing(world: World, scene: Scene, model: str, number: int) -> dict[str, Any]:
    """Let the power fail before a sync or rename of another command."""
    scene.start(world)
    ended = _without_power(world, model, number, lambda first: scene.act(world, first=first))
    return _found(ended, model) | {"wrong": scene.wrong(world)}


def count_syncs(world: World, command: Callable[[Callable[[], None]], Ended]) -> int:
    """Return how many syncs and renames a command makes, beginning with the place as it is."""
    counted = mmap.mmap(-1, 8)  # shared with the fork

    def first() -> None:
        disks = Disks(world.place.resolve(), MODELS[0], sys.maxsize, world.folder / "no-disk")
        disks.on_count = lambda: counted.__setitem__(slice(0, 8), struct.pack("q", sys.maxsize - disks.left))
        disks.install()

    ended = command(first)
    assert ended.code == FINISHED, ended.err
    return int(struct.unpack("q", counted[:8])[0])


def _without_power(world: World, model: str, number: int, command: Callable[[Callable[[], None]], Ended]) -> Ended:
    """Run a command until the power fails; if it did, the place is then what the disk holds."""
    disk = world.folder / "disk"
    shutil.rmtree(disk, ignore_errors=True)
    ended = command(lambda: Disks(world.place.resolve(), model, number, disk).install())
    if ended.code == KILLED:
        shutil.rmtree(world.place)
        shutil.move(disk, world.place)
    return ended


def _found(ended: Ended, model: str) -> dict[str, Any]:
    return {"stopped": int(ended.code == KILLED), "model": model}
