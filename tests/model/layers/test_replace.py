"""Whole models with falconer's own layers: the loss and the gradients of the stock layers, in float64 and in bf16."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
)

from falconer.model.layers.replace import has_own_layers, replace_layers, restore_layers
from falconer.model.layers.rms_norm import OwnRmsNorm
from falconer.model.lora import add_adapter, trainable_tensors
from falconer.model.output_head import head_of
from falconer.records import Batch
from falconer.train.step import nll_sum
from same_dropout import draw_as_falconer

pytestmark = pytest.mark.usefixtures("one_thread")

IDS = {"vocab_size": 97, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
DROP = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
CONFIGS = {
    "llama": LlamaConfig(**IDS, **SIZES, num_key_value_heads=2),
    "gemma3": Gemma3TextConfig(**IDS, **SIZES, head_dim=8, num_key_value_heads=1, sliding_window=6,
                               layer_types=["sliding_attention", "full_attention"]),
    "gemma2": Gemma2Config(**IDS, **SIZES, head_dim=8, num_key_value_heads=2, final_logit_softcapping=5.0),
    "gpt2": GPT2Config(**IDS, **DROP, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "neox": GPTNeoXConfig(**IDS, **SIZES),
}  # fmt: skip
NUM_LINEARS = {"llama": 14, "gemma3": 14, "gemma2": 14, "gpt2": 8, "neox": 8}


def model_of(config: PreTrainedConfig, dtype: torch.dtype, dropout: float = 0.0, targets: str = "all-linear") -> Any:
    torch.manual_seed(1)
    model: Any = AutoModelForCausalLM.from_config(config).to(dtype).requires_grad_(False)
    model = add_adapter(model, r=4, alpha=8, dropout=dropout, targets=targets, seed=0).train()
    with torch.no_grad():
        for parameter in trainable_tensors(model).values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def batch() -> Batch:
    ids = np.random.default_rng(0).integers(2, 97, (3, 20))
    is_target = np.zeros(ids.shape, dtype=bool)
    is_target[:, 7:12] = True
    return Batch(ids, is_target, np.array([20, 20, 20]), ("a", "b", "c"))


def outcome(model: Any, autocast: torch.dtype | None) -> tuple[float, torch.Tensor]:
    """Return loss and gradients, with dropout from one seed."""
    torch.manual_seed(3)
    model.zero_grad(set_to_none=True)
    loss = nll_sum(model, batch(), head_on_targets=head_of(model), autocast=autocast)
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.flatten().double() for p in trainable_tensors(model).values()])


def off(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("memory", ["fast", "lean"])
def test_loss_and_gradients_are_the_stock_layers(name: str, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_as_falconer(monkeypatch)
    model = model_of(CONFIGS[name], torch.float64, dropout=0.2)
    loss, grads = outcome(model, None)
    assert replace_layers(model, None) == ""
    if memory == "lean":
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    own_loss, own_grads = outcome(model, None)
    assert own_loss == pytest.approx(loss, rel=1e-6) and off(own_grads, grads) < 1e-6
    restore_layers(model)
    assert not has_own_layers(model)
    assert not any("forward" in module.__dict__ for module in model.modules())


@pytest.mark.parametrize("name", CONFIGS)
def test_bf16_is_as_near_to_float64_as_autocast_is(name: str) -> None:
    model = model_of(CONFIGS[name], torch.bfloat16)
    exact = copy.deepcopy(model).double()
    _, expected = outcome(exact, None)
    _, stock = outcome(model, torch.bfloat16)
    assert replace_layers(model, torch.bfloat16) == ""
    linears = [module for module in model.modules() if type(module.__dict__.get("forward")).__name__ == "OwnLoraLinear"]
    assert len(linears) == NUM_LINEARS[name]
    norms = [module for module in model.modules() if isinstance(module.__dict__.get("forward"), OwnRmsNorm)]
    assert bool(norms) == (name in ("llama", "gemma3", "gemma2"))
    _, own = outcome(model, torch.bfloat16)
    assert off(own, expected) <= 2 * off(stock, expected)


def test_less_is_stored_than_under_autocast() -> None:
    model = model_of(CONFIGS["gemma3"], torch.bfloat16, dropout=0.1)

    def stored() -> int:
        found: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        frozen = {p.untyped_storage().data_ptr() for p in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            loss = nll_sum(model, batch(), head_on_targets=head_of(model), autocast=torch.bfloat16)
        del loss
        return sum(size for place, size in found.items() if place not in frozen)

    before = stored()
    assert replace_layers(model, torch.bfloat16) == ""
    assert stored() < before / 2


def test_the_adapter_is_the_one_that_the_optimiser_has_just_changed() -> None:
    model = model_of(CONFIGS["llama"], torch.float64)
    assert replace_layers(model, None) == ""
    before, _ = outcome(model, None)
    with torch.no_grad():
        for parameter in trainable_tensors(model).values():
            parameter.data.mul_(3)
    after, _ = outcome(model, None)
    restore_layers(model)
    assert after != before and after == pytest.approx(outcome(model, None)[0], rel=1e-6)


def test_what_falconer_cannot_compute_keeps_the_stock_layers() -> None:
    def with_peft(**options: Any) -> Any:
        base = AutoModelForCausalLM.from_config(CONFIGS["llama"]).requires_grad_(False)
        return get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", **options))

    mixed = with_peft()
    mixed.base_model.model.model.norm.to(torch.bfloat16)
    refused = (
        (with_peft(use_dora=True), "the adapter is not a plain LoRA"),
        (with_peft(modules_to_save=["lm_head"]), "it has an adapter of type ModulesToSaveWrapper"),
        (mixed, "its weights are in bfloat16 and float32"),
        (AutoModelForCausalLM.from_config(CONFIGS["llama"]), "the model has no adapter, or no backbone of its own"),
    )
    for model, reason in refused:
        assert replace_layers(model, None) == reason
        assert not has_own_layers(model)
        assert not any("forward" in module.__dict__ for module in model.modules())


def test_a_row_of_zeros_for_padding_does_not_keep_the_stock_layers() -> None:
    """The gradient of a zero grows a thousandfold in each norm, until it is no number."""
    config = copy.deepcopy(CONFIGS["gemma3"])
    config.num_hidden_layers, config.layer_types = 12, ["full_attention"] * 12
    model = model_of(config, torch.bfloat16)
    assert not model.get_input_embeddings().weight[0].any()
    assert replace_layers(model, torch.bfloat16) == ""


def test_layers_that_give_something_else_together_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(CONFIGS["llama"], torch.float32)
    monkeypatch.setattr(OwnRmsNorm, "__call__", lambda self, x: 2 * x)
    assert replace_layers(model, None) == "together, they give another result than the model's own"
    assert not has_own_layers(model)
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_a_padding_token_without_an_embedding_does_not_hide_that_the_layers_agree() -> None:
    deep = LlamaConfig(**IDS, **(SIZES | {"num_hidden_layers": 16}), num_key_value_heads=2, rms_norm_eps=1e-12)
    model = model_of(deep, torch.bfloat16)
    assert not model.get_input_embeddings().weight[0].any(), "an untrained model has none for padding"
    assert replace_layers(model, torch.bfloat16) == ""
    assert has_own_layers(model)
