"""The operations in plain torch, against torch's own modules and autograd in float64."""

import pytest
import torch
from torch.nn import functional as F

from falconer.kernels import generic_reference as ops
from falconer.kernels.formats import ACTIVATIONS


def doubles(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm_is_torchs(offset: float) -> None:
    x, weight, grad = doubles(7, 24), doubles(24).detach(), doubles(7, 24).detach()
    expected = F.rms_norm(x, (24,), weight + offset, eps=1e-5)
    found, rstd = ops.rms_norm(x.detach(), weight, 1e-5, offset)
    torch.testing.assert_close(found, expected.detach())
    (slope,) = torch.autograd.grad(expected, x, grad)
    torch.testing.assert_close(ops.rms_norm_grad(grad, x.detach(), rstd, weight, offset), slope)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_gated_is_the_product_with_torchs_activation(act: str) -> None:
    gate, up, grad = doubles(3, 5), doubles(3, 5), doubles(3, 5).detach()
    named = {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}
    expected = named[act](gate) * up
    torch.testing.assert_close(ops.gated(gate.detach(), up.detach(), act), expected.detach())
    for found, slope in zip(
        ops.gated_grad(grad, gate.detach(), up.detach(), act),
        torch.autograd.grad(expected, (gate, up), grad), strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(found, slope)
