"""Does what was written outlive a machine that loses its power, on a real file system?

Needs root and loop mounts: `pytest -m loop_mount`. The image of a mounted file system is copied at once after a write,
as if the power had failed then; what had only reached the kernel's memory is not in it.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from falconer.files import replace as files
from kill_points import NAMES, content, read, write

pytestmark = pytest.mark.loop_mount
VERSIONS = range(1, 6)


@contextmanager
def mounted(image: Path, point: Path) -> Iterator[Path]:
    point.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system of its own; its image is disk.img beside it."""
    with (tmp_path / "disk.img").open("wb") as image:
        image.truncate(48 << 20)
    maker = shutil.which("mkfs.ext4") or "/usr/sbin/mkfs.ext4"
    # ext4 brings a file to the disk by itself when it is renamed over another one; others do not.
    subprocess.run([maker, "-q", "-F", str(tmp_path / "disk.img")], check=True)
    with mounted(tmp_path / "disk.img", tmp_path / "disk") as point:
        yield point


def after_power_loss(disk: Path, kind: str) -> int | None:
    """Return the version that a machine finds which loses its power now; half of one is an error."""
    copy = disk.with_name("copy.img")
    subprocess.run(["cp", "--sparse=always", str(disk.with_name("disk.img")), str(copy)], check=True)
    with mounted(copy, disk.with_name("copy")) as found:
        return read(found / "run" / "deep" / "target", kind)


@pytest.mark.parametrize("kind", ["file", "folder", "folder by two renames"])
def test_what_was_written_is_there_at_once(disk: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    if kind == "folder by two renames":
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    kind = kind.split()[0]
    target = disk / "run" / "deep" / "target"
    for version in VERSIONS:
        write(target, kind, version)
        assert after_power_loss(disk, kind) == version
        assert os.listdir(target.parent) == ["target"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_while_it_is_being_written_the_old_one_is_there(disk: Path, kind: str) -> None:
    target = disk / "run" / "deep" / "target"
    write(target, kind, 1)
    replace = files.replace_file if kind == "file" else files.replace_folder
    with replace(target) as aside:
        for name in [""] if kind == "file" else NAMES:
            (aside / name).parent.mkdir(exist_ok=True)
            (aside / name).write_text(content(2))
        assert after_power_loss(disk, kind) == 1
    assert after_power_loss(disk, kind) == 2


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_this_test_can_fail(disk: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Without fsync, what was written is not there."""
    write(disk / "run" / "deep" / "target", kind, 1)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    write(disk / "run" / "deep" / "target", kind, 2)
    assert after_power_loss(disk, kind) == 1
