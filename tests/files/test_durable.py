"""In which order does what is written come to the disk? A rename may not be there before what it names."""

import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from falconer.files import durable
from falconer.files import replace as files
from falconer.files.durable import make_folder, sync_file, sync_folder, sync_tree
from falconer.files.replace import replace_file, replace_folder

Events = list[tuple[str, str]]


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Events:
    """What was synced, renamed and removed under `tmp_path`, in order; temporary names are "partial"."""
    happened: Events = []

    def name(path: Any) -> str:
        relative = Path(os.fsdecode(path)).relative_to(tmp_path)
        return "/".join("partial" if part.endswith(".partial") else part for part in relative.parts) or "."

    def note(what: str, real: Callable[..., Any], which: int = 0) -> Callable[..., Any]:
        def noted(*arguments: Any, **options: Any) -> Any:
            result = real(*arguments, **options)
            happened.append((what, name(arguments[which])))
            return result

        return noted

    real_sync = os.fsync

    def sync(descriptor: int) -> None:
        happened.append(("sync", name(os.readlink(f"/proc/self/fd/{descriptor}"))))
        real_sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", note("rename", os.replace, 1))
    monkeypatch.setattr(files, "_exchange", note("swap", files._exchange, 1))
    monkeypatch.setattr(shutil, "rmtree", note("remove", shutil.rmtree))
    return happened


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells what a descriptor is")


@linux
def test_a_file_is_on_the_disk_before_its_name_and_the_name_before_anything_else(
    tmp_path: Path, events: Events
) -> None:
    with replace_file(tmp_path / "x") as aside:
        aside.write_text("new")
        assert not events
    assert events == [("sync", "partial"), ("rename", "x"), ("sync", ".")]


@linux
def test_new_folders_on_the_way_are_on_the_disk_first(tmp_path: Path, events: Events) -> None:
    with replace_file(tmp_path / "a" / "b" / "x") as aside:
        aside.write_text("new")
    assert events == [
        ("sync", "."), ("sync", "a"), ("sync", "a/b/partial"), ("rename", "a/b/x"), ("sync", "a/b"),
    ]  # fmt: skip


def save(target: Path) -> None:
    with replace_folder(target) as aside:
        (aside / "inner").mkdir()
        (aside / "inner" / "more").write_text("new")
        (aside / "weights").write_text("new")


CONTENTS = [("sync", "partial/inner/more"), ("sync", "partial/inner"), ("sync", "partial/weights"), ("sync", "partial")]


@linux
def test_a_folder_comes_after_all_that_is_in_it_and_the_old_one_goes_last(tmp_path: Path, events: Events) -> None:
    save(tmp_path / "last")
    assert events == [*CONTENTS, ("rename", "last"), ("sync", ".")]
    events.clear()
    save(tmp_path / "last")
    # The new one is on the disk before the old one, which has its temporary name now, is removed.
    assert events == [*CONTENTS, ("swap", "last"), ("sync", "."), ("remove", "partial")]


@linux
def test_with_two_renames_the_old_one_goes_last_too(
    tmp_path: Path, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "last")
    events.clear()
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    save(tmp_path / "last")
    assert [what for what, _ in events[len(CONTENTS) :]] == ["rename", "rename", "sync", "remove"]
    assert events[len(CONTENTS) + 2] == ("sync", ".") and events[: len(CONTENTS)] == CONTENTS


@linux
def test_a_failed_sync_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk did not take must not stand in for what it has."""
    save(tmp_path / "last")
    (tmp_path / "x").write_text("old")

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    for target, replace in ((tmp_path / "x", replace_file), (tmp_path / "last", replace_folder)):
        with pytest.raises(Exception, match="The disk failed"), replace(target) as aside:
            (aside if replace is replace_file else aside / "weights").write_text("half")
    monkeypatch.undo()
    assert (tmp_path / "x").read_text() == "old" and (tmp_path / "last" / "weights").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["last", "x"]


@pytest.mark.parametrize("number", sorted(durable._NO_FOLDER_SYNC))
def test_a_file_system_that_syncs_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    real = os.fsync

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    save(tmp_path / "a" / "last")
    assert (tmp_path / "a" / "last" / "weights").read_text() == "new"
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(5, "broken")))
    with pytest.raises(OSError, match="broken"):
        sync_folder(tmp_path)


def test_links_inside_a_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "victim").chmod(0o600)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "victim")
    sync_tree(tmp_path / "folder", 0o644)
    assert stat.S_IMODE((tmp_path / "victim").stat().st_mode) == 0o600
    with pytest.raises(OSError, match="symbolic links"):
        sync_file(tmp_path / "folder" / "link")


def test_make_folder_says_what_was_missing(tmp_path: Path) -> None:
    assert make_folder(tmp_path / "a" / "b") == [tmp_path / "a", tmp_path / "a" / "b"]
    assert make_folder(tmp_path / "a" / "b") == []
    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for path in ("file", "file/x", "nowhere"):
        with pytest.raises(NotADirectoryError):
            make_folder(tmp_path / path)
