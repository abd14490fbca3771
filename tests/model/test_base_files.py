"""A base model whose files changed since a run was trained is refused, with the name of one that changed."""

import shutil
import time
from pathlib import Path

import pytest

from falconer.errors import FalconerError
from falconer.files.replace import sha256
from falconer.model.base_files import hashed_base, same_base


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    for name in ("model-1.safetensors", "model-2.safetensors", "config.json", "tokenizer.json", "README.md"):
        (folder / name).write_text(f"{name} " * 50)
    return folder


def hashes(base: Path) -> dict[str, str]:
    with hashed_base(str(base), None) as files:
        return files.hashes()


def test_weights_configuration_and_tokenizer_are_hashed(base: Path) -> None:
    found = hashes(base)
    assert set(found) == {"model-1.safetensors", "model-2.safetensors", "config.json", "tokenizer.json"}
    assert found["config.json"] == sha256(base / "config.json")
    assert "model.safetensors" in hashes(Path("falcon-mini"))
    assert hashes(Path("nobody/nothing")) == {} and hashes(Path("no such: name")) == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda base: (base / "model-2.safetensors").write_text("other"), "model-2.safetensors has another hash."),
        (lambda base: (base / "config.json").unlink(), "config.json is missing."),
        (lambda base: shutil.copy(base / "config.json", base / "model-3.safetensors"), "model-3.safetensors was added"),
        (
            lambda base: [path.write_text("x") for path in base.iterdir()],
            r"config.json has another hash \(and 3 more\).",
        ),
    ],
)
def test_whatever_has_changed_is_named(base: Path, change: object, said: str) -> None:
    record = {"base_files": hashes(base)}
    with same_base(record, str(base), None):
        pass
    change(base)  # type: ignore[operator]
    refused = pytest.raises(FalconerError, match=f"has changed since this run was trained: {said}")
    with refused, same_base(record, str(base), None):
        pass


def test_a_changed_file_explains_why_it_could_not_be_loaded(base: Path) -> None:
    record = {"base_files": hashes(base)}
    with pytest.raises(FalconerError, match="can't be read"), same_base(record, str(base), None):
        raise FalconerError("it can't be read")
    (base / "config.json").write_text("x")
    with pytest.raises(FalconerError, match="has changed since"), same_base(record, str(base), None):
        raise FalconerError("it can't be read")


def test_a_run_of_an_older_version_is_not_checked(base: Path) -> None:
    with same_base({}, str(base), None):
        pass


def test_ctrl_c_does_not_wait_for_the_hashes(base: Path) -> None:
    with (base / "large.safetensors").open("wb") as file:
        file.truncate(2**36)  # minutes of hashing
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), same_base({"base_files": {"a": "b"}}, str(base), None):
        raise KeyboardInterrupt
    assert time.monotonic() - start < 10
