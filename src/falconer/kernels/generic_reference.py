"""The operations that the generic path trains with, in plain torch; its own ones beside those of `reference`.

Statistics are in fp32, or in fp64 for fp64 input.

Shapes: M rows (tokens), D width.
"""

import torch
from torch.nn import functional as F

from falconer.kernels.formats import Activation
from falconer.kernels.reference import (
    dequantise,
    lora_down,
    lora_grad_a,
    lora_grad_input_,
    sample_dropout,
)

__all__ = [
    "cross_entropy_", "dequantise", "gated", "gated_grad", "lora_down", "lora_grad_a", "lora_grad_input_", "rms_norm",
    "rms_norm_grad", "sample_dropout",
]  # fmt: skip


def cross_entropy_(logits_MV: torch.Tensor, labels: torch.Tensor, grad: bool) -> torch.Tensor:
    """Return each row's negative log-likelihood [M] in nats; with `grad`, logits become their gradient."""
    log_probs_MV = F.log_softmax(_exact(logits_MV), dim=1)
    nll = -log_probs_MV.gather(1, labels[:, None]).squeeze(1)
    if grad:
        probabilities_MV = log_probs_MV.exp_()
        probabilities_MV[torch.arange(len(labels), device=labels.device), labels] -= 1
        logits_MV.copy_(probabilities_MV)
    return nll


def rms_norm(
    x_MD: torch.Tensor, weight: torch.Tensor, eps: float, offset: float
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return x over the root of its mean square, times (weight + offset), [M, D], and one over that root, fp32 [M]."""
    exact = _exact(x_MD)
    rstd = torch.rsqrt(exact.square().mean(dim=1) + eps)
    return (exact * rstd[:, None] * (_exact(weight) + offset)).to(x_MD.dtype), rstd


def rms_norm_grad(
    grad_MD: torch.Tensor, x_MD: torch.Tensor, rstd: torch.Tensor, weight: torch.Tensor, offset: float
) -> torch.Tensor:
    """Return the gradient of `rms_norm`'s input [M, D] from that of its output."""
    unit = _exact(x_MD) * rstd[:, None]
    scaled = _exact(grad_MD) * (_exact(weight) + offset)
    return ((scaled - unit * (scaled * unit).mean(dim=1, keepdim=True)) * rstd[:, None]).to(x_MD.dtype)


def gated(gate: torch.Tensor, up: torch.Tensor, act: Activation) -> torch.Tensor:
    """Return `act(gate) * up`."""
    return (activated(_exact(gate), act) * _exact(up)).to(gate.dtype)


def gated_grad(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, act: Activation
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of `gate` and `up` from that of `gated`."""
    with torch.enable_grad():
        exact = _exact(gate).detach().requires_grad_()
        value = activated(exact, act)
        (of_gate,) = torch.autograd.grad(value, exact, _exact(grad) * _exact(up))
    return of_gate.to(gate.dtype), (_exact(grad) * value.detach()).to(up.dtype)


def activated(x: torch.Tensor, act: Activation) -> torch.Tensor:
    """Return the activation of x."""
    return F.silu(x) if act == "silu" else F.gelu(x, approximate="tanh" if act == "gelu_tanh" else "none")


def _exact(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()
