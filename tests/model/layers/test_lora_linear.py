"""A linear layer with its LoRA, against PEFT's own forward pass and autograd in float64."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Conv1D

from falconer.kernels import generic_reference as ops
from falconer.model.bnb import bnb
from falconer.model.layers.again import Again, attach
from falconer.model.layers.lora_linear import OwnLoraLinear, Refresh, why_not_own
from same_dropout import draw_as_falconer

K, N, R = 64, 128, 4


def adapted(layer: nn.Module, dropout: float = 0.0, dtype: torch.dtype = torch.float64, **more: Any) -> Any:
    """Return PEFT's layer around a frozen one, its adapter drawn at random."""
    torch.manual_seed(3)
    model = nn.ModuleDict({"one": layer}).to(dtype).requires_grad_(False)
    config = LoraConfig(r=R, lora_alpha=3 * R, lora_dropout=dropout, target_modules=["one"], init_lora_weights=False,
                        fan_in_fan_out=isinstance(layer, Conv1D), **more)  # fmt: skip
    return get_peft_model(model, config).base_model.model["one"].train()


def own_of(module: Any, dtype: torch.dtype = torch.float64) -> OwnLoraLinear:
    assert why_not_own(module) == ""
    own = OwnLoraLinear(module, ops, dtype)
    Refresh([own])()
    return own


def outcome(forward: Any, module: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """Return the output, and the gradients of the input and the adapter."""
    torch.manual_seed(5)
    out = forward(x)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), [x, *trained])]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(
    "layer", [nn.Linear(K, N), nn.Linear(K, N, bias=False), Conv1D(N, K)], ids=["bias", "plain", "conv"]
)
def test_it_is_pefts_layer(layer: nn.Module, dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_as_falconer(monkeypatch)
    module = adapted(layer, dropout)
    x = torch.randn(2, 5, K, dtype=torch.float64, requires_grad=True)
    for found, expected in zip(outcome(own_of(module), module, x), outcome(module, module, x), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_4_bit_layer_too() -> None:
    layer = bnb.nn.Linear4bit(K, N, bias=False, quant_type="nf4", compute_dtype=torch.float32)
    layer.load_state_dict({"weight": torch.randn(N, K)})
    module = adapted(layer.to("cpu"), dtype=torch.float32)
    module.base_layer.support_avx512bf16_for_cpu = False
    x = torch.randn(3, K, requires_grad=True)
    for found, expected in zip(
        outcome(own_of(module, torch.float32), module, x), outcome(module, module, x), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_what_the_input_is_made_from_is_stored_in_its_place() -> None:
    module = adapted(nn.Linear(K, N))
    own, source = own_of(module), torch.randn(4, K, dtype=torch.float64, requires_grad=True)
    x = source * 2
    expected = outcome(module, module, source)
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        attach(x, Again(lambda of: of * 2, source.detach()))
        out = own(x)
    assert source.data_ptr() in saved and x.data_ptr() not in saved
    trained = [module.lora_A["default"].weight, module.lora_B["default"].weight]
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    grads = torch.autograd.grad((out * weights).sum(), trained)
    plain = torch.autograd.grad((module(source * 2) * weights).sum(), trained)
    assert len(expected) == 4
    for found, twin in zip(grads, plain, strict=True):
        torch.testing.assert_close(found, twin)


def test_calls_that_are_not_trainings_are_pefts() -> None:
    module = adapted(nn.Linear(K, N))
    own, x = own_of(module), torch.randn(2, K, dtype=torch.float64)
    with torch.no_grad():
        own.cast_a.zero_()  # its own pass would show it
        whole = module(x)
        assert not torch.equal(own(x), whole)
        module.enable_adapters(False)
        assert torch.equal(own(x), module.base_layer(x))
        module.enable_adapters(True)
        assert torch.equal(own(x, adapter_names=["default"] * 2), whole)
        module.merge()
        torch.testing.assert_close(own(x), whole)


def test_layers_that_peft_has_to_compute_are_refused() -> None:
    assert "not a plain LoRA" in why_not_own(adapted(nn.Linear(K, N), use_dora=True))
    assert "type Embedding" in why_not_own(adapted(nn.Embedding(K, N))) or why_not_own(adapted(nn.Embedding(K, N)))
    module = adapted(nn.Linear(K, N))
    module.base_layer.requires_grad_(True)
    assert why_not_own(module) == "its layer is trained, too"
    module.base_layer.requires_grad_(False)
    module.enable_adapters(False)
    assert why_not_own(module) == "its adapter is switched off"
