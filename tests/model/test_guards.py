"""Strangers' folders: nothing pickled is loaded, no path leads out of them, and no weights pretend to be quantised."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from falconer.errors import FalconerError
from falconer.model.guards import check_model_folder, no_pickle
from falconer.model.load import load_model
from tiny import save_tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def change(file: Path, **values: Any) -> None:
    found = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(found | values))


def refused(folder: Path) -> str:
    with pytest.raises(FalconerError) as caught:
        load_model(str(folder), quantization="none", dtype="fp32", device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def sharded(folder: Path, file: str) -> dict[str, torch.Tensor]:
    """Move the weights to another file, which the index names."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    change(folder / "model.safetensors.index.json", metadata={}, weight_map=dict.fromkeys(weights, file))
    return weights


def test_an_index_that_names_a_pickled_file(folder: Path) -> None:
    torch.save(sharded(folder, "w.bin"), folder / "w.bin")
    said = refused(folder)
    assert "index.json' names 'w.bin', and only safetensors are loaded" in said


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/outside.safetensors", "a/b.safetensors", "..\\x.safetensors"]
)
def test_an_index_that_points_outside(folder: Path, name: str) -> None:
    save_file(sharded(folder, name), folder.parent / "outside.safetensors", metadata={"format": "pt"})
    assert f"names '{name}', which is not a file in its own folder" in refused(folder)


@pytest.mark.parametrize("weight_map", [None, [], {}, {"a": 1}, {"a": ["x.safetensors"]}, "x"])
def test_an_index_that_is_damaged(folder: Path, weight_map: Any) -> None:
    sharded(folder, "x.safetensors")
    change(folder / "model.safetensors.index.json", weight_map=weight_map)
    assert "index.json'" in refused(folder)


def test_a_configuration_that_names_weights_elsewhere(folder: Path) -> None:
    change(folder / "config.json", transformers_weights="../other/model.safetensors")
    assert "config.json' names '../other/model.safetensors'" in refused(folder)


def test_an_adapter_in_place_of_a_model(folder: Path) -> None:
    change(folder / "adapter_config.json", base_model_name_or_path="/etc", peft_type="LORA")
    assert "contains an adapter" in refused(folder) and "lora.init_adapter" in refused(folder)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8", "mxfp4", "hqq", "quark", "no such method"])
def test_weights_that_are_said_to_be_quantised_and_are_not(folder: Path, method: str) -> None:
    change(folder / "config.json", quantization_config={"quant_method": method, "load_in_4bit": True})
    assert f"says that the weights are quantised ({method}), but they are stored as F32" in refused(folder)


def test_a_pipe_in_place_of_quantised_weights(folder: Path) -> None:
    """Opening it would wait for ever."""
    change(folder / "config.json", quantization_config={"quant_method": "gptq"})
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    assert "It must contain config.json, tokenizer.json and *.safetensors" in refused(folder)


@pytest.mark.parametrize("claimed", [{}, [], 4, "nf4", {"quant_method": 3}, {"quant_method": ""}])
def test_a_claim_of_the_wrong_type(folder: Path, claimed: Any) -> None:
    change(folder / "config.json", quantization_config=claimed)
    assert "quantization_config has no quant_method" in refused(folder)


@pytest.mark.parametrize(
    "values",
    [
        {"num_attention_heads": 0}, {"num_attention_heads": -1}, {"num_attention_heads": "two"}, {"hidden_size": None},
        {"hidden_size": 10**12}, {"num_hidden_layers": "x"}, {"num_hidden_layers": -1}, {"vocab_size": []},
        {"vocab_size": 0}, {"model_type": 3}, {"model_type": "falcon\x1b"}, {"layer_norm_epsilon": "small"},
        {"rope_parameters": [1]}, {"rope_parameters": {"rope_type": "no such"}}, {"num_kv_heads": 0},
        {"auto_map": {"AutoModelForCausalLM": "evil.Evil"}, "model_type": "evil"}, {"torch_dtype": "float99"},
    ],
    ids=str,
)  # fmt: skip
def test_a_configuration_of_wrong_values(folder: Path, values: dict[str, Any]) -> None:
    change(folder / "config.json", **values)
    try:
        load_model(str(folder), quantization="none", dtype="fp32", device="cpu")
    except FalconerError as error:
        assert str(folder) in str(error) and "\n" not in str(error)


def test_no_pickle_is_read_inside_and_everything_after(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "w.bin")
    with pytest.raises(FalconerError, match="holds pickled weights"), no_pickle():
        torch.load(tmp_path / "w.bin", weights_only=True)
    assert torch.load(tmp_path / "w.bin", weights_only=True)["a"] == 1


def test_a_name_on_the_hub_is_no_folder() -> None:
    check_model_folder(Path("nobody/nothing"))
