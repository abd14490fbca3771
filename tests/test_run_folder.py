"""What a run's folder says of it comes back as it was written, and damage is named."""

import pytest

from falconer import run_folder
from falconer.config import load
from falconer.errors import FalconerError


def test_configuration_and_records_come_back_as_they_were_written(tmp_path):
    config = load("falcon-7b", ["data.text=natural", "train.epochs=0.5"])
    run_folder.write_run(tmp_path, config, {"data": {"train": 1}})
    run_folder.write_splits(tmp_path, {"version": 1})
    assert run_folder.read_config(tmp_path) == config
    assert run_folder.read_record(tmp_path) == {"data": {"train": 1}}
    assert run_folder.read_splits(tmp_path) == {"version": 1}
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "run.json", "splits.json"}


def test_a_folder_without_a_run_is_explained(tmp_path):
    with pytest.raises(FalconerError, match=r"holds no run \(config.yaml is missing\)"):
        run_folder.read_config(tmp_path)
    with pytest.raises(FalconerError, match=r"run\.json' can't be read"):
        run_folder.read_record(tmp_path)
    assert run_folder.read_splits(tmp_path) is None


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe"])
def test_a_damaged_record_is_named(tmp_path, content):
    for name in ("run.json", "splits.json"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FalconerError, match=r"run\.json' is damaged"):
        run_folder.read_record(tmp_path)
    with pytest.raises(FalconerError, match=r"splits\.json' is damaged"):
        run_folder.read_splits(tmp_path)


@pytest.mark.parametrize("content", ["[", "- a", "model: [1"])
def test_a_damaged_configuration_is_named(tmp_path, content):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(FalconerError, match=r"config\.yaml' is damaged"):
        run_folder.read_config(tmp_path)
