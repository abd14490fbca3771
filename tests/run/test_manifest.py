"""A changed bit in any file that a manifest lists, in the manifest, or in a record with its own hash is noticed."""

import json
import os
import random
from pathlib import Path

import pytest

from falconer.config import load
from falconer.errors import FalconerError
from falconer.run import manifest
from falconer.run.folder import read_config, read_record, read_splits, write_config, write_run
from falconer.run.manifest import (
    MANIFEST,
    check_content,
    check_folder,
    check_seal,
    read_manifest,
    sealed,
    write_folder_manifest,
)

HINT = "Restore it."


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(content)


def is_refused(path: Path) -> bool:
    """Return whether a sealed record is damaged; what JSON can't read is."""
    try:
        check_seal(json.loads(path.read_bytes()), path, HINT)
    except (FalconerError, ValueError):
        return True
    return False


def test_any_flipped_bit_of_a_sealed_record_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    tree = {"step": 16, "best_loss": 3.25, "why": "it’s", "none": None, "inner": {"a": [1, 2.5, True]}, "at": ["x"]}
    path = tmp_path / "record.json"
    content = (json.dumps(sealed(tree), indent=2) + "\n").encode()
    missed = []
    for bit in range(8 * len(content)):
        path.write_bytes(content)
        flip(path, bit)
        if not is_refused(path):
            read = json.loads(path.read_bytes())
            assert read == sealed(tree), "another spelling of the same content"
            missed.append(bit)
    assert len(missed) < 5


def test_a_record_of_an_older_version_carries_no_hash() -> None:
    check_seal({"step": 1, "note": "x" * 64}, Path("x"), HINT)
    check_seal([1], Path("x"), HINT)
    with pytest.raises(FalconerError, match="its hash differs"):
        check_seal({"step": 1, "sha256": "0" * 64}, Path("x"), HINT)
    with pytest.raises(FalconerError, match="its hash differs"):
        check_seal(
            {name.replace("sha256", "sha257"): value for name, value in sealed({"a": 1}).items()}, Path("x"), HINT
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "adapter"
    made.mkdir()
    for name in ("weights.safetensors", "settings.json", "README.md"):
        (made / name).write_bytes(f"{name}: content".encode() * 9)
    write_folder_manifest(made)
    return made


def test_every_file_but_those_for_people_is_checked(folder: Path) -> None:
    assert set(read_manifest(folder, HINT) or ()) == {"weights.safetensors", "settings.json"}
    check_folder(folder, HINT, is_required=True)
    (folder / "README.md").write_text("edited")
    (folder / "notes.txt").write_text("added")
    check_folder(folder, HINT)


def test_flipped_bits_of_all_files_are_noticed(folder: Path) -> None:
    dice = random.Random(3)
    for name in ("weights.safetensors", "settings.json", MANIFEST):
        content = (folder / name).read_bytes()
        for _ in range(40):
            flip(folder / name, dice.randrange(8 * len(content)))
            with pytest.raises(FalconerError, match="is damaged"):
                check_folder(folder, HINT)
            (folder / name).write_bytes(content)
    check_folder(folder, HINT)


@pytest.mark.parametrize("name", ["weights.safetensors", MANIFEST])
@pytest.mark.parametrize("kind", ["folder", "pipe", "loop"])
def test_what_is_no_file_is_named_and_never_waited_for(folder: Path, name: str, kind: str) -> None:
    path = folder / name
    path.unlink()
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "loop": lambda: path.symlink_to(path)}[kind]()
    with pytest.raises(FalconerError, match=f"{name}' can't be read"):
        check_folder(folder, HINT)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"files": {}}', '{"files": {"a": "b"}, "sha256": ""}', "\x00" * 9]
)
def test_a_manifest_that_is_none_is_refused(folder: Path, content: str) -> None:
    (folder / MANIFEST).write_text(content)
    with pytest.raises(FalconerError, match=f"{MANIFEST}' is damaged"):
        check_folder(folder, HINT)


def test_without_a_manifest_files_are_unchecked_unless_it_is_required(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    check_folder(folder, HINT)
    check_content(folder / "settings.json", None, HINT)
    with pytest.raises(FalconerError, match=f"{MANIFEST} is missing"):
        check_folder(folder, HINT, is_required=True)


def test_the_files_of_a_runs_start_are_checked_where_they_are_read(tmp_path: Path) -> None:
    write_run(tmp_path, load("quickstart", []), {"data": {}}, {"version": 1})
    for name, read in (("config.yaml", read_config), ("run.json", read_record), ("splits.json", read_splits)):
        content = (tmp_path / name).read_bytes()
        place = content.index(b"17") if name == "config.yaml" else len(content) // 2
        (tmp_path / name).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(FalconerError, match=f"{name}.* is damaged"):
            read(tmp_path)
        (tmp_path / name).write_bytes(content)
        read(tmp_path)


def test_a_kill_between_manifest_and_configuration_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load("quickstart", [])
    write_run(tmp_path, before, {})
    moved = load("quickstart", ["data.train=/elsewhere/train.jsonl"])

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("falconer.run.folder._write", die)
        with pytest.raises(KeyboardInterrupt):
            write_config(tmp_path, moved)
    assert read_config(tmp_path) == before
    write_config(tmp_path, moved)
    assert read_config(tmp_path) == moved
    write_config(tmp_path, before)
    assert read_config(tmp_path) == before and manifest.read_manifest(tmp_path, HINT)
