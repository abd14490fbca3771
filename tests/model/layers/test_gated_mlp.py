"""Which modules are gated MLPs, and that their own pass gives what they give."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from falconer.kernels import generic_reference as ops
from falconer.model.layers.gated_mlp import mlp_of

F64 = torch.float64


def mlp(act: str = "silu") -> Any:
    torch.manual_seed(2)
    config = LlamaConfig(
        hidden_size=16, intermediate_size=24, hidden_act=act, num_hidden_layers=1, num_attention_heads=2
    )
    return LlamaMLP(config).to(F64)


@pytest.mark.parametrize("act", ["silu", "gelu", "gelu_pytorch_tanh"])
def test_output_and_gradients_are_the_modules(act: str) -> None:
    module = mlp(act)
    own = mlp_of(module, ops, F64)
    assert own is not None
    x = torch.randn(2, 3, 16, dtype=F64, requires_grad=True)
    weights = torch.randn(2, 3, 16, dtype=F64)
    inputs = [x, *module.parameters()]
    found, expected = (torch.autograd.grad((run(x) * weights).sum(), inputs) for run in (own, module))
    torch.testing.assert_close(own(x), module(x))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_activation_and_product_are_not_stored() -> None:
    module = mlp().requires_grad_(False)
    own = mlp_of(module, ops, F64)
    assert own is not None
    sizes: list[int] = []
    x = torch.randn(2, 3, 16, dtype=F64, requires_grad=True)

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() == 3:
            sizes.append(tensor.shape[-1])
        return tensor

    for run, stored in ((own, 2), (module, 3)):
        sizes.clear()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            run(x)
        assert sizes.count(24) == stored


def test_an_mlp_that_does_something_else_is_none() -> None:
    class Doubled(LlamaMLP):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 2

    module = mlp()
    module.__class__ = Doubled
    assert mlp_of(module, ops, F64) is None
    assert mlp_of(mlp("relu"), ops, F64) is None
    assert mlp_of(torch.nn.Linear(16, 16), ops, F64) is None
