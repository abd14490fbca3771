"""An adapter that can't be written into weights is refused by the name of what it has."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from exported import LINEAR, save_adapter_on
from falconer.errors import FalconerError
from falconer.model.export.adapter import read_adapter
from falconer.model.export.base import open_base


@pytest.fixture(scope="module")
def skeleton(tiny_bases):
    return open_base(str(tiny_bases["falcon"])).skeleton


@pytest.fixture
def adapter(tiny_bases, tmp_path):
    save_adapter_on(tiny_bases["falcon"], tmp_path / "adapter", target_modules=LINEAR["falcon"])
    return tmp_path / "adapter"


def change(adapter, **settings):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | settings))


def change_weights(adapter, edit):
    tensors = load_file(adapter / "adapter_model.safetensors")
    edit(tensors)
    save_file(tensors, adapter / "adapter_model.safetensors")


def test_a_plain_adapter(adapter, skeleton):
    found = read_adapter(adapter, skeleton)
    assert len(found.loras) == 4 and found.changed == set(found.loras) and found.alpha == 8
    assert {lora.scaling for lora in found.loras.values()} == {2.0}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("init_lora_weights", "pissa"), ("init_lora_weights", "olora"), ("init_lora_weights", "loftq"),
        ("layer_replication", [[0, 1]]), ("trainable_token_indices", [1, 2]), ("target_parameters", ["weight"]),
        ("alora_invocation_tokens", [3]), ("use_qalora", True), ("ensure_weight_tying", True),
        ("arrow_config", {"top_k": 2}), ("a_setting_of_tomorrow", {"k": 1}),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_named(adapter, skeleton, setting, value):
    change(adapter, **{setting: value})
    with pytest.raises(FalconerError) as caught:
        read_adapter(adapter, skeleton)
    assert f"{setting}={json.dumps(value)}" in caught.value.message


def test_another_kind_of_adapter(adapter, skeleton):
    change(adapter, peft_type="IA3")
    with pytest.raises(FalconerError, match="an adapter of type IA3; only LORA"):
        read_adapter(adapter, skeleton)


def test_a_layer_that_the_base_lacks(adapter, tiny_bases):
    with pytest.raises(FalconerError, match=r"changes transformer\.h\.0.*which its base model does not have"):
        read_adapter(adapter, open_base(str(tiny_bases["llama"])).skeleton)


def test_another_shape(adapter, skeleton):
    def widen(tensors):
        name = next(name for name in tensors if "h.0.self_attention.dense.lora_B" in name)
        tensors[name] = torch.zeros(130, 4)

    change_weights(adapter, widen)
    with pytest.raises(FalconerError, match=r"dense\.weight of shape \(130, 128\); the base model's has \(128, 128\)"):
        read_adapter(adapter, skeleton)


def test_one_half_is_missing(adapter, skeleton):
    change_weights(adapter, lambda tensors: tensors.pop(next(name for name in tensors if "lora_A" in name)))
    with pytest.raises(FalconerError, match="one of the two LoRA matrices of"):
        read_adapter(adapter, skeleton)


def test_a_damaged_file_and_a_missing_one(adapter, skeleton):
    (adapter / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(FalconerError, match="can't be read"):
        read_adapter(adapter, skeleton)
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(FalconerError, match="contains no adapter"):
        read_adapter(adapter, skeleton)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("lora_alpha", "x", 'lora_alpha is "x"'), ("alpha_pattern", ["a"], r'alpha_pattern is \["a"\]'),
        ("alpha_pattern", {"a": None}, "alpha_pattern is"), ("modules_to_save", "x", 'modules_to_save is "x"'),
        ("lora_alpha", 10**400, "a number with hundreds of digits"),
        ("alpha_pattern", {"a": -(10**309)}, "a number with hundreds of digits"),
        ("alpha_pattern", {"(([a-z_.0-9])+)+X": 4}, "alpha_pattern takes more than"),
    ],
)  # fmt: skip
def test_a_setting_of_a_wrong_kind(adapter, skeleton, setting, value, said, monkeypatch):
    monkeypatch.setattr("falconer.model.patterns._MOST_S", 0.3)
    change(adapter, **{setting: value})
    with pytest.raises(FalconerError, match=said):
        read_adapter(adapter, skeleton)


def test_a_matrix_that_is_none(adapter, skeleton):
    def flatten(tensors):
        name = next(name for name in tensors if name.endswith("lora_A.weight"))
        tensors[name] = torch.zeros(7)

    change_weights(adapter, flatten)
    with pytest.raises(FalconerError, match=r"the LoRA matrices of .* have the shapes \(7,\) and"):
        read_adapter(adapter, skeleton)
