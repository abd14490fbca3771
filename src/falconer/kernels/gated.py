"""The inner product of a gated MLP (Shazeer 2020, arXiv:2002.05202), `act(gate) * up`, and the gradients of both.

The activation's output is not stored: the backward pass computes it again from `gate`.

Shapes: S values, in any number of dimensions. Grids: see `falconer.kernels`.
"""

import torch
import triton
import triton.language as tl

from falconer.kernels.formats import ACTIVATIONS, Activation

BLOCK = 1024


def gated(gate: torch.Tensor, up: torch.Tensor, act: Activation) -> torch.Tensor:
    """See `generic_reference.gated`."""
    out = torch.empty_like(gate)
    size = gate.numel()
    _gated[(triton.cdiv(size, BLOCK),)](gate, up, out, size, act=ACTIVATIONS.index(act), BLOCK=BLOCK, num_warps=4)
    return out


def gated_grad(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, act: Activation
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `generic_reference.gated_grad`."""
    of_gate, of_up = torch.empty_like(gate), torch.empty_like(gate)
    size = gate.numel()
    _gated_grad[(triton.cdiv(size, BLOCK),)](
        grad, gate, up, of_gate, of_up, size, act=ACTIVATIONS.index(act), BLOCK=BLOCK, num_warps=4
    )
    return of_gate, of_up


@triton.jit
def _logistic(x):
    # The exponential never overflows.
    small = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, small) / (1 + small)


@triton.jit
def _activated(x, act: tl.constexpr):
    """Return an activation of x, and its slope."""
    if act == 0:
        share = _logistic(x)
        return x * share, share * (1 + x * (1 - share))
    elif act == 1:
        share = 0.5 * (1 + tl.erf(x * 0.7071067811865476))
        return x * share, share + x * tl.exp(-0.5 * x * x) * 0.3989422804014327
    else:
        inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        # (1 + tanh(z)) / 2 is the logistic function of 2z.
        share = _logistic(2 * inner)
        slope = share + x * 2 * share * (1 - share) * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x)
        return x * share, slope


@triton.jit
def _gated(gate, up, out, size, act: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (S / BLOCK,).

    Args:
        gate, up, out: [S].
        act: the activation's place in ACTIVATIONS.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    activated, _ = _activated(tl.load(gate + at, mask=inside, other=0).to(tl.float32), act)
    result = activated * tl.load(up + at, mask=inside, other=0).to(tl.float32)
    tl.store(out + at, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gated_grad(grad, gate, up, of_gate, of_up, size, act: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (S / BLOCK,).

    Args:
        grad, gate, up: [S]; the gradient of the product, and what it was made from.
        of_gate, of_up: [S], the gradients.
        act: the activation's place in ACTIVATIONS.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    activated, slope = _activated(tl.load(gate + at, mask=inside, other=0).to(tl.float32), act)
    dy = tl.load(grad + at, mask=inside, other=0).to(tl.float32)
    value = tl.load(up + at, mask=inside, other=0).to(tl.float32)
    tl.store(of_gate + at, (dy * value * slope).to(of_gate.dtype.element_ty), mask=inside)
    tl.store(of_up + at, (dy * activated).to(of_up.dtype.element_ty), mask=inside)
