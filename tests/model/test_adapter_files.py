"""An adapter's folder that lacks a file or a tensor, or whose files were changed, is refused with the name of it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from falconer.errors import FalconerError
from falconer.model.adapter_files import WEIGHTS, check_adapter_files, check_tensors
from falconer.run.manifest import write_folder_manifest


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    save_file({"a": torch.zeros(2), "b": torch.ones(3)}, tmp_path / WEIGHTS)
    (tmp_path / "adapter_config.json").write_text("{}")
    return tmp_path


def test_files_that_are_missing_are_named(adapter: Path) -> None:
    check_adapter_files(adapter)
    (adapter / WEIGHTS).unlink()
    with pytest.raises(FalconerError, match=f"is incomplete: {WEIGHTS} is missing"):
        check_adapter_files(adapter)
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(FalconerError, match="contains no adapter"):
        check_adapter_files(adapter)


def test_a_file_that_its_manifest_does_not_list_so_is_named(adapter: Path) -> None:
    write_folder_manifest(adapter)
    check_adapter_files(adapter)
    save_file({"a": torch.zeros(2), "b": torch.zeros(3)}, adapter / WEIGHTS)
    with pytest.raises(FalconerError, match=f"the hash of {WEIGHTS} differs"):
        check_adapter_files(adapter)


def test_tensors_that_are_missing_are_counted(adapter: Path) -> None:
    check_tensors(adapter, ["a", "b"])
    check_tensors(adapter, ["a"])
    with pytest.raises(FalconerError, match="lacks 2 of 3 tensors, including c"):
        check_tensors(adapter, ["a", "c", "d"])
