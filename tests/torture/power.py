"""Power loss, by the order of system calls: what a disk holds of which only the synced parts are certain.

Two disks are modelled beside the real one. On the first, nothing is there that was not synced: neither the content of a
file nor an entry of a folder. On the second, entries of folders reach the disk at once and contents only when they are
synced, as on a file system that writes its metadata first; unsynced files have no bytes.
"""

import os
import shutil
import stat
from pathlib import Path
from typing import Any

from torture.worlds import FINISHED, KILLED, World, difference

MODELS = ("nothing unsynced", "names first")


class Disks:
    """The disks of a process that works in a folder, until its power fails at the sync or rename of a number.

    Args:
        top: the folder that is followed; it exists and is on the disk.
        number: of the sync or rename before which the power fails.
        into: where the disk is written then.
    """

    def __init__(self, top: Path, model: str, number: int, into: Path) -> None:
        self.top, self.model, self.left, self.into = top, model, number, into
        self.contents: dict[int, bytes] = {}
        self.entries: dict[int, dict[str, int]] = {}
        self.kinds: dict[int, bool] = {}  # whether it is a folder

    def install(self) -> None:
        """Follow this process's syncs and renames."""
        self._sync_folder(self.top)
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
    """Let the power fail before a sync or rename of a training, go on with what the disk holds, and compare.

    Returns:
        As the functions in kills.py; `ended` says that the training came to its end before.
    """
    world.start_with(None)
    disk = world.folder / "disk"
    shutil.rmtree(disk, ignore_errors=True)

    def first() -> None:
        Disks(world.place.resolve(), model, number, disk).install()

    ended = world.command(world.train, first=first)
    found = {"seed": number, "model": model, "kills": int(ended.code == KILLED), "moments": [number], "wrong": ""}
    if ended.code not in (KILLED, FINISHED):
        return found | {"wrong": f"failed: {ended.err[-500:]}", "ended": True}
    if ended.code == FINISHED:
        return found | {"ended": True}
    shutil.rmtree(world.place)
    shutil.move(disk, world.place)
    is_run = (world.run / "config.yaml").exists()
    again = world.command(world.resume if is_run else world.train)
    if again.code != FINISHED:
        return found | {"wrong": f"lost: {again.err[-500:]}", "ended": False}
    return found | {"wrong": difference(world.run, world.trained), "ended": False}
