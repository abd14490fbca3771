"""Files that are replaced together: all or none, whatever stops the writer, and whoever reads meanwhile."""

import threading
from functools import partial
from pathlib import Path

import pytest

from falconer.errors import FalconerError
from falconer.files.replace import remove_leftovers
from falconer.files.together import finish_together, replace_together
from kill_points import die_before_operation

NAMES = ("a.json", "b.jsonl", "c.html")


def write(folder: Path, version: int) -> None:
    with replace_together(folder, "set", removed=["old.txt"] if version % 2 else []) as aside:
        for name in NAMES:
            (aside / name).write_text(f"{version}\n" * 200)
        if not version % 2:
            (aside / "old.txt").write_text(f"{version}\n" * 200)


def read(folder: Path) -> int:
    finish_together(folder, "set")
    found = {path.name: path.read_text() for path in folder.iterdir()}
    (version,) = {int(text.split()[0]) for text in found.values()}
    assert set(found.values()) == {f"{version}\n" * 200}
    assert set(found) == set(NAMES) | (set() if version % 2 else {"old.txt"})
    return version


def test_a_writer_killed_before_every_operation(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write(folder, 0)
    version, number, ended, moved = 0, 0, False, 0
    while not ended:
        number += 1
        ended = die_before_operation(number, partial(write, folder, number))
        moved += (folder / "set.new").exists()
        # Of the writer that died; any writer removes them first.
        remove_leftovers(folder)
        found = read(folder)
        assert found in (version, number)
        version = found
    assert version == number and moved > 5 and number > 12


def test_readers_at_the_same_time_finish_it_together(tmp_path: Path) -> None:
    write(tmp_path, 0)
    for version in range(1, 40):
        new = tmp_path / "set.new"
        new.mkdir()
        for name in (*NAMES, *(() if version % 2 else ("old.txt",))):
            (new / name).write_text(f"{version}\n" * 200)
        (new / ".removed").write_text("old.txt\n" if version % 2 else "")
        errors: list[BaseException] = []

        def finish(errors: list[BaseException] = errors) -> None:
            try:
                finish_together(tmp_path, "set")
            except BaseException as error:
                errors.append(error)

        readers = [threading.Thread(target=finish) for _ in range(4)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert not errors and read(tmp_path) == version


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    write(tmp_path, 0)
    with pytest.raises(FalconerError, match="No space left"), replace_together(tmp_path, "set") as aside:
        (aside / NAMES[0]).write_text("half")
        raise OSError(28, "No space left on device")
    assert read(tmp_path) == 0
