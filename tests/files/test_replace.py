"""Nothing is lost: whatever goes wrong while writing, what was there before stays whole."""

import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from falconer.errors import FalconerError
from falconer.files import replace as files
from falconer.files.locks import release, try_lock
from falconer.files.replace import folder_beside, recover_folder, replace_file, replace_folder, sha256

DISK_FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def left_behind(folder: Path) -> list[str]:
    """Return the names of temporary files and folders, which must not outlive the writing."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def failing_after(calls: int, error: Exception, real: Callable[..., None] = os.replace) -> Callable[..., None]:
    """Return a stand-in for os.replace whose call number `calls` fails; the others work."""
    done = 0

    def replace(source: Path, target: Path) -> None:
        nonlocal done
        done += 1
        if done == calls:
            raise error
        real(source, target)

    return replace


# Files


def test_a_new_file_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "x.json"
    with replace_file(target) as aside:
        aside.write_text("new")
        assert not target.exists(), "nobody sees a half-written file"
        assert aside.parent == target.parent, "a rename works within one file system only"
    assert target.read_text() == "new"
    assert left_behind(target.parent) == []


def test_an_old_file_is_replaced_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    target.write_text("old")
    with replace_file(target) as aside:
        aside.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), FalconerError("bad row")])
def test_a_failure_keeps_the_old_file(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "x.json"
    target.write_text("old")
    with pytest.raises(type(error)), replace_file(target) as aside:
        aside.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert left_behind(tmp_path) == []


def test_a_failure_leaves_no_new_file(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    with pytest.raises(ValueError, match="broken"), replace_file(target) as aside:
        aside.write_text("half")
        raise ValueError("broken")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_while_writing_a_file(tmp_path: Path, code: int) -> None:
    target = tmp_path / "x.json"
    target.write_text("old")
    with pytest.raises(FalconerError, match="No space left") as caught, replace_file(target) as aside:
        aside.write_text("half")
        raise OSError(code, os.strerror(code))
    assert str(target) in caught.value.message and caught.value.hint
    assert target.read_text() == "old"
    assert left_behind(tmp_path) == []


def test_a_full_disk_while_renaming_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x.json"
    target.write_text("old")
    monkeypatch.setattr(os, "replace", failing_after(1, DISK_FULL))
    with pytest.raises(FalconerError, match="No space left"), replace_file(target) as aside:
        aside.write_text("new")
    assert target.read_text() == "old"
    assert left_behind(tmp_path) == []


def test_a_real_device_that_is_full(tmp_path: Path) -> None:
    """/dev/full gives the system's own error, from a real write."""
    target = tmp_path / "x.json"
    with pytest.raises(FalconerError, match="No space left"), replace_file(target), open("/dev/full", "w") as full:
        full.write("x" * 100_000)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_may_not_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x.json"
    monkeypatch.setattr(os, "replace", failing_after(1, PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(FalconerError, match="can't be written: Permission denied"), replace_file(target) as aside:
        aside.write_text("new")
    assert not target.exists()


@pytest.mark.parametrize("replace", [replace_file, replace_folder])
def test_a_parent_that_is_a_file(tmp_path: Path, replace: Callable[[Path], object]) -> None:
    (tmp_path / "runs").write_text("a file, where a folder was meant")
    with pytest.raises(FalconerError) as caught, replace(tmp_path / "runs" / "x") as aside:  # type: ignore[attr-defined]
        aside.mkdir()
    assert "runs" in str(caught.value)
    assert (tmp_path / "runs").read_text() == "a file, where a folder was meant"


def test_a_file_where_a_folder_is(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "precious").write_text("old")
    with pytest.raises(FalconerError), replace_file(tmp_path / "x") as aside:
        aside.write_text("new")
    assert (tmp_path / "x" / "precious").read_text() == "old"
    assert left_behind(tmp_path) == []


def test_a_folder_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("precious")
    with pytest.raises(FalconerError), replace_folder(tmp_path / "x") as aside:
        (aside / "y").write_text("new")
    assert (tmp_path / "x").read_text() == "precious"
    assert left_behind(tmp_path) == []


def test_an_error_of_another_kind_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Protocol error") as caught, replace_file(tmp_path / "x"):
        raise OSError(errno.EPROTO, "Protocol error")
    assert not isinstance(caught.value, FalconerError)


def test_a_missing_file_inside_is_not_a_disk_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replace_file(tmp_path / "x"):
        (tmp_path / "never there").read_text()


# Folders


def old_folder(tmp_path: Path) -> Path:
    target = tmp_path / "best"
    target.mkdir()
    (target / "adapter.safetensors").write_text("old")
    (target / "only-in-old").write_text("old")
    return target


def is_whole_and_old(target: Path) -> bool:
    names = sorted(path.name for path in target.iterdir())
    return names == ["adapter.safetensors", "only-in-old"] and (target / "adapter.safetensors").read_text() == "old"


def test_a_new_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "runs" / "best"
    with replace_folder(target) as aside:
        (aside / "adapter.safetensors").write_text("new")
        assert not target.exists()
    assert (target / "adapter.safetensors").read_text() == "new"
    assert left_behind(target.parent) == []


def test_an_old_folder_is_replaced_not_mixed(tmp_path: Path) -> None:
    target = old_folder(tmp_path)
    with replace_folder(target) as aside:
        (aside / "adapter.safetensors").write_text("new")
        assert is_whole_and_old(target)
    assert [path.name for path in target.iterdir()] == ["adapter.safetensors"]
    assert (target / "adapter.safetensors").read_text() == "new"
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), DISK_FULL])
def test_a_failure_keeps_the_old_folder(tmp_path: Path, error: BaseException) -> None:
    target = old_folder(tmp_path)
    expected = FalconerError if error is DISK_FULL else type(error)
    with pytest.raises(expected), replace_folder(target) as aside:
        (aside / "adapter.safetensors").write_text("half")
        raise error
    assert is_whole_and_old(target)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("call", [1, 2], ids=["moving the old one away", "moving the new one in"])
@pytest.mark.parametrize("error", [DISK_FULL, KeyboardInterrupt(), RuntimeError("anything")], ids=repr)
def test_a_failure_while_renaming_keeps_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, error: Exception
) -> None:
    target = old_folder(tmp_path)
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    monkeypatch.setattr(os, "replace", failing_after(call, error))
    expected = FalconerError if error is DISK_FULL else type(error)
    with pytest.raises(expected), replace_folder(target) as aside:
        (aside / "adapter.safetensors").write_text("new")
    assert is_whole_and_old(target)
    assert left_behind(tmp_path) == []


def test_what_an_interrupted_process_left_is_not_mixed_in(tmp_path: Path) -> None:
    """A process killed while writing leaves its temporary folder; the next one of that number starts clean."""
    target = tmp_path / "best"
    with replace_folder(target) as aside:
        name = aside.name
        (aside / "x").write_text("1")
    (tmp_path / name).mkdir()
    (tmp_path / name / "stale").write_text("stale")
    with replace_folder(target) as aside:
        (aside / "x").write_text("2")
    assert [path.name for path in target.iterdir()] == ["x"]
    assert (target / "x").read_text() == "2"


# Temporary names


@pytest.mark.parametrize("replace", [replace_file, replace_folder])
def test_nobody_can_guess_a_temporary_name(tmp_path: Path, replace: Callable[[Path], object]) -> None:
    names = set()
    for _ in range(3):
        with pytest.raises(ValueError, match="stop"), replace(tmp_path / "x") as aside:  # type: ignore[attr-defined]
            names.add(aside.name)
            raise ValueError("stop")
    assert len(names) == 3


def test_a_link_at_the_temporary_name_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even by somebody who guesses it."""
    (tmp_path / "victim").write_text("precious")
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "0123456789abcdef")
    for kind in ("partial", "lock"):
        link = tmp_path / f".x.0123456789abcdef.{kind}"
        # Made while it clears up: whatever is there before is removed as a dead writer's.
        monkeypatch.setattr(files, "remove_leftovers", lambda *_, link=link: link.symlink_to(tmp_path / "victim"))
        with pytest.raises(FalconerError, match="can't be written"), replace_file(tmp_path / "x") as aside:
            aside.write_text("overwritten")
        assert (tmp_path / "victim").read_text() == "precious" and not (tmp_path / "x").exists()
        link.unlink(missing_ok=True)


def test_a_link_that_a_writer_puts_in_place_of_its_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "victim").chmod(0o600)
    with pytest.raises(FalconerError, match="symbolic links"), replace_file(tmp_path / "x") as aside:
        aside.unlink()
        aside.symlink_to(tmp_path / "victim")
    assert stat.S_IMODE((tmp_path / "victim").stat().st_mode) == 0o600 and left_behind(tmp_path) == []


def test_what_dead_writers_left_is_removed_whatever_they_wrote(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    assert dead.wait() == 0
    for name in (
        ".other.json.00112233445566ff.partial", ".other.json.00112233445566ff.lock", ".x.json.ffffffffffffffff.lock",
        f".x.json.{dead.pid}.partial",
    ):  # fmt: skip
        (tmp_path / name).write_text("half")
    (tmp_path / ".best.aaaaaaaaaaaaaaaa.partial" / "deep").mkdir(parents=True)
    mine = [".x.json.partial.swp", ".hidden", f".x.json.{os.getpid()}.partial", ".best.bbbbbbbbbbbbbbbb.old"]
    for name in mine:
        (tmp_path / name).write_text("somebody's own, a living writer's, or all that there is")
    with replace_file(tmp_path / "x.json") as aside:
        aside.write_text("new")
    assert left_behind(tmp_path) == sorted(mine)


@pytest.mark.parametrize("replace", [replace_file, replace_folder])
def test_names_as_long_as_the_system_takes(tmp_path: Path, replace: Callable[[Path], object]) -> None:
    for name in ("n" * 255, "ж" * 127):
        with replace(tmp_path / name) as aside:  # type: ignore[attr-defined]
            (aside / "y" if aside.is_dir() else aside).write_text("new")
        assert (tmp_path / name).exists()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("replace", [replace_file, replace_folder])
def test_a_longer_name_is_refused_before_the_work(tmp_path: Path, replace: Callable[[Path], object]) -> None:
    with pytest.raises(FalconerError, match="too long.*Choose a shorter name"), replace(tmp_path / ("n" * 256)):  # type: ignore[attr-defined]
        pytest.fail("the work has begun")
    assert list(tmp_path.iterdir()) == []


def test_a_device_does_not_become_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "out", tmp_path / "pipe"):
        with pytest.raises(FalconerError, match="is not a file"), replace_file(path):
            pytest.fail("the work has begun")
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "out").is_char_device()


# Permissions


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_users_umask_holds_for_whoever_wrote(tmp_path: Path, umask: int) -> None:
    """As safetensors does, which writes 0600."""
    before = os.umask(umask)
    try:
        with replace_file(tmp_path / "x") as aside:
            aside.unlink()
            os.close(os.open(aside, os.O_CREAT | os.O_WRONLY, 0o600))
        with replace_folder(tmp_path / "y") as aside:
            (aside / "inner").mkdir(mode=0o700)
            for name in ("weights", "inner/weights"):
                os.close(os.open(aside / name, os.O_CREAT | os.O_WRONLY, 0o600))
            (aside / "settings").write_text("new")
    finally:
        os.umask(before)
    file, folder = 0o666 & ~umask, 0o777 & ~umask
    assert modes(tmp_path) == {
        "x": file, "y": folder, "y/inner": folder, "y/weights": file, "y/inner/weights": file, "y/settings": file,
    }  # fmt: skip


# A folder that is away


def away(tmp_path: Path, name: str = ".best.0123456789abcdef.old") -> Path:
    """Return a folder whose writer died between two renames."""
    target = old_folder(tmp_path)
    target.rename(tmp_path / name)
    return target


@pytest.mark.parametrize("name", [".best.0123456789abcdef.old", ".best.old"])
def test_a_reader_puts_back_what_a_dead_writer_moved_away(tmp_path: Path, name: str) -> None:
    target = away(tmp_path, name)
    recover_folder(target)
    assert is_whole_and_old(target) and left_behind(tmp_path) == []
    recover_folder(target)
    recover_folder(tmp_path / "never" / "there")
    assert is_whole_and_old(target)


def test_a_writer_puts_it_back_too(tmp_path: Path) -> None:
    target = away(tmp_path)
    with pytest.raises(ValueError, match="broken"), replace_folder(target):
        raise ValueError("broken")
    assert is_whole_and_old(target) and left_behind(tmp_path) == []


def test_the_only_copy_of_another_folder_is_kept(tmp_path: Path) -> None:
    """`best.x` is not `best`: what a dead writer of the one moved away is no leftover of the other's."""
    (tmp_path / "best.x").mkdir()
    (tmp_path / "best.x" / "precious").write_text("old")
    (tmp_path / "best.x").rename(tmp_path / ".best.x.0123456789abcdef.old")
    for _ in range(2):
        with replace_folder(tmp_path / "best") as aside:
            (aside / "y").write_text("new")
    with replace_file(tmp_path / "file") as aside:
        aside.write_text("new")
    recover_folder(tmp_path / "best.x")
    assert (tmp_path / "best.x" / "precious").read_text() == "old" and left_behind(tmp_path) == []


def test_a_reader_waits_for_a_living_writer(tmp_path: Path) -> None:
    """Which is between its two renames."""
    target = away(tmp_path)
    descriptor = try_lock(tmp_path / ".best.0123456789abcdef.lock")
    assert descriptor is not None
    in_place = threading.Timer(0.3, (tmp_path / ".best.0123456789abcdef.old").rename, [target])
    in_place.start()
    recover_folder(target)
    assert is_whole_and_old(target)
    in_place.join()
    release(tmp_path / ".best.0123456789abcdef.lock", descriptor)


def test_a_reader_that_may_not_write_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = away(tmp_path)
    monkeypatch.setattr(os, "replace", failing_after(1, PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(FalconerError, match="can't be restored: Permission denied.*write permission"):
        recover_folder(target)


def test_folders_are_swapped_in_one_operation_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux with a file system of its own; elsewhere two renames do."""
    if not sys.platform.startswith("linux"):
        pytest.skip("Linux has it")
    target = old_folder(tmp_path)
    monkeypatch.setattr(os, "replace", failing_after(1, AssertionError("a rename in place of a swap")))
    with replace_folder(target) as aside:
        (aside / "adapter.safetensors").write_text("new")
    assert [path.name for path in target.iterdir()] == ["adapter.safetensors"] and left_behind(tmp_path) == []


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with replace_file(Path("x.json")) as aside:
        aside.write_text("new")
    with replace_folder(Path("runs/x")) as aside:
        (aside / "y").write_text("new")
    assert Path("x.json").read_text() == "new" and Path("runs/x/y").read_text() == "new"


def test_sha256_is_the_standards_own_example(tmp_path: Path) -> None:
    """FIPS 180-2, appendix B.1: the digest of "abc"."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("replace", [replace_file, replace_folder, folder_beside])
def test_a_folder_that_is_removed_around_what_is_written(tmp_path: Path, replace: Callable[..., Any]) -> None:
    folder = tmp_path / "exports"
    with pytest.raises(FalconerError, match=f"'{folder}' was removed or renamed"), replace(folder / "new") as aside:
        shutil.rmtree(folder)
        (aside / "x" if aside.suffix == ".partial" else aside).write_text("too late")
    assert not folder.exists()
