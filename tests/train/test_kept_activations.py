"""The bytes that a pass stores, counted without memory: against those of a real pass with the same layers."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPTNeoXConfig, LlamaConfig, MambaConfig

from falconer.model.layers.replace import has_own_layers, replace_layers
from falconer.train.kept_activations import kept_bytes

pytestmark = pytest.mark.usefixtures("one_thread")

IDS = {"vocab_size": 97, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
CONFIGS = {
    "llama": LlamaConfig(**IDS, **SIZES),
    "gemma3": Gemma3TextConfig(**IDS, **SIZES, head_dim=16, num_key_value_heads=4),
    "neox": GPTNeoXConfig(**IDS, **SIZES),
}
TOKENS = 64


def adapted(config: Any, device: str) -> Any:
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16).requires_grad_(False)
        options = LoraConfig(r=4, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM")
        return get_peft_model(model, options).train()


def stored(model: Any) -> float:
    """Return the bytes of a token that a real pass stores, without masks."""
    sizes: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point():
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    frozen = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    with saved_tensors_hooks(note, lambda tensor: tensor):
        output = model.get_base_model().base_model(torch.zeros(1, TOKENS, dtype=torch.int64), use_cache=False)
    assert output.last_hidden_state.requires_grad
    return sum(size for place, size in sizes.items() if place not in frozen) / TOKENS


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_counted_is_what_a_real_pass_stores(name: str) -> None:
    counted = kept_bytes(model := adapted(CONFIGS[name], "meta"))
    assert counted is not None and not has_own_layers(model)
    real = adapted(CONFIGS[name], "cpu")
    assert replace_layers(real, torch.bfloat16) == ""
    assert counted == pytest.approx(stored(real), rel=0.08)


def test_key_value_heads_are_not_repeated() -> None:
    whole, few = (
        kept_bytes(adapted(LlamaConfig(**IDS, **SIZES, num_key_value_heads=heads), "meta")) for heads in (4, 1)
    )
    assert whole is not None and few is not None
    # Three key and three value heads of 16 values in each of three layers.
    assert whole - few == pytest.approx(3 * 6 * 16 * 2, rel=0.01)


def test_where_own_layers_are_not_used_nothing_is_counted() -> None:
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(CONFIGS["llama"]).requires_grad_(False)
        dora = get_peft_model(base, LoraConfig(r=4, use_dora=True, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert kept_bytes(dora) is None
    mamba = MambaConfig(**IDS, hidden_size=32, num_hidden_layers=1, state_size=4)
    with torch.device("meta"):
        recurrent = AutoModelForCausalLM.from_config(mamba).requires_grad_(False)
        recurrent = get_peft_model(recurrent, LoraConfig(r=4, target_modules=["in_proj"], task_type="CAUSAL_LM"))
    counted = kept_bytes(recurrent)
    assert counted is None or counted > 0
