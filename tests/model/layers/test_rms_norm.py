"""Which modules are RMS norms, and that their own pass gives what they give."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from falconer.kernels import generic_reference as ops
from falconer.model.layers.again import again_of
from falconer.model.layers.rms_norm import norm_of


def drawn(kind: Any, eps: float = 1e-5) -> nn.Module:
    torch.manual_seed(1)
    module: nn.Module = kind(32, eps=eps).requires_grad_(False)
    module.weight.copy_(torch.randn(32))
    return module


@pytest.mark.parametrize("kind", [Gemma3RMSNorm, LlamaRMSNorm, nn.RMSNorm])
@pytest.mark.parametrize("is_turned", [False, True], ids=["contiguous", "heads"])
def test_output_and_gradient_are_the_modules(kind: Any, is_turned: bool) -> None:
    module = drawn(kind)
    own = norm_of(module, ops)
    assert own is not None
    x = torch.randn(2, 5, 3, 32, requires_grad=True)
    seen = x.transpose(1, 2) if is_turned else x
    found, expected = own(seen), module(seen)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    weights = torch.randn(found.shape)
    slopes = [torch.autograd.grad((out * weights).sum(), x)[0] for out in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-5)
    again = again_of(found)
    assert (again is None) == is_turned
    if again is not None:
        assert torch.equal(again.compute(*again.tensors).view(found.shape), found)


def test_other_modules_are_none() -> None:
    class Shifted(LlamaRMSNorm):
        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            return super().forward(hidden_states) + 0.01

    trained = drawn(LlamaRMSNorm).requires_grad_(True)
    for module in (drawn(Shifted), trained, nn.LayerNorm(32), nn.Linear(32, 32), nn.Dropout(), nn.PReLU(32)):
        assert norm_of(module, ops) is None
