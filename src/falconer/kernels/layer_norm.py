"""LayerNorm with frozen weights, with the residual adds before it and the quantisation behind it in the same pass.

A row is read once; its statistics are in fp32.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from falconer.kernels.formats import Norm, Normed, Operand, Want
from falconer.kernels.quantise import empty_fp8, row_scale


def add_layer_norm(
    hidden_MD: torch.Tensor, branches: Sequence[torch.Tensor], norm: Norm, want: Want
) -> tuple[Normed, Operand]:
    """See `reference.add_layer_norm`."""
    num_rows, width = hidden_MD.shape
    device = hidden_MD.device
    summed = torch.empty_like(hidden_MD) if branches else hidden_MD
    mean, rstd = (torch.empty(num_rows, dtype=torch.float32, device=device) for _ in range(2))
    plain = torch.empty_like(hidden_MD) if want.plain else None
    fp8 = empty_fp8(num_rows, width, device) if want.fp8 else None
    first, second = branches or (hidden_MD, hidden_MD)
    _add_norm[(num_rows,)](
        hidden_MD, first, second, norm.weight, norm.bias, summed, mean, rstd, hidden_MD if plain is None else plain,
        fp8.values if fp8 else hidden_MD, fp8.scale if fp8 else mean, norm.eps,
        width=width, adds=bool(branches), plain=want.plain, quantised=want.fp8,
        BLOCK=triton.next_power_of_2(width), num_warps=8,
    )  # fmt: skip
    return Normed(summed, mean, rstd, norm), Operand(plain, fp8)


def layer_norm_grad(grads: Sequence[torch.Tensor], x: Normed, residual_MD: torch.Tensor | None, want: Want) -> Operand:
    """See `reference.layer_norm_grad`."""
    num_rows, width = x.hidden.shape
    device = x.hidden.device
    plain = torch.empty_like(x.hidden) if want.plain else None
    fp8 = empty_fp8(num_rows, width, device) if want.fp8 else None
    _norm_grad[(num_rows,)](
        grads[0], grads[-1], x.hidden, x.mean, x.rstd, x.norm.weight, x.hidden if residual_MD is None else residual_MD,
        x.hidden if plain is None else plain, fp8.values if fp8 else x.hidden, fp8.scale if fp8 else x.mean,
        width=width, adds=len(grads) == 2, residual=residual_MD is not None, plain=want.plain, quantised=want.fp8,
        BLOCK=triton.next_power_of_2(width), num_warps=8,
    )  # fmt: skip
    return Operand(plain, fp8)


@triton.jit
def _add_norm(
    hidden, first, second, weight, bias, summed, mean, rstd, out, out_fp8, scale, eps,
    width: tl.constexpr, adds: tl.constexpr, plain: tl.constexpr, quantised: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    at = row * width + columns
    x = tl.load(hidden + at, mask=inside, other=0).to(tl.float32)
    if adds:
        x += tl.load(first + at, mask=inside, other=0).to(tl.float32)
        x += tl.load(second + at, mask=inside, other=0).to(tl.float32)
        rounded = x.to(summed.dtype.element_ty)
        tl.store(summed + at, rounded, mask=inside)
        # The backward pass sees what is stored, so the statistics must be of that.
        x = rounded.to(tl.float32)
    mu = tl.sum(x) / width
    centred = tl.where(inside, x - mu, 0.0)
    inverse = tl.rsqrt(tl.sum(centred * centred) / width + eps)
    tl.store(mean + row, mu)
    tl.store(rstd + row, inverse)
    w = tl.load(weight + columns, mask=inside, other=0).to(tl.float32)
    b = tl.load(bias + columns, mask=inside, other=0).to(tl.float32)
    y = centred * inverse * w + b
    if plain:
        tl.store(out + at, y.to(out.dtype.element_ty), mask=inside)
    if quantised:
        size = row_scale(y)
        tl.store(scale + row, size)
        tl.store(out_fp8 + at, (y / size).to(out_fp8.dtype.element_ty), mask=inside)


@triton.jit
def _norm_grad(
    grad, second_grad, hidden, mean, rstd, weight, residual_grad, out, out_fp8, scale,
    width: tl.constexpr, adds: tl.constexpr, residual: tl.constexpr, plain: tl.constexpr, quantised: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    at = row * width + columns
    dy = tl.load(grad + at, mask=inside, other=0).to(tl.float32)
    if adds:
        dy += tl.load(second_grad + at, mask=inside, other=0).to(tl.float32)
    x = tl.load(hidden + at, mask=inside, other=0).to(tl.float32)
    inverse = tl.load(rstd + row)
    unit = tl.where(inside, (x - tl.load(mean + row)) * inverse, 0.0)
    scaled = dy * tl.load(weight + columns, mask=inside, other=0).to(tl.float32)
    dx = (scaled - tl.sum(scaled) / width - unit * (tl.sum(scaled * unit) / width)) * inverse
    if residual:
        dx += tl.load(residual_grad + at, mask=inside, other=0).to(tl.float32)
    dx = tl.where(inside, dx, 0.0)
    if plain:
        tl.store(out + at, dx.to(out.dtype.element_ty), mask=inside)
    if quantised:
        size = row_scale(dx)
        tl.store(scale + row, size)
        tl.store(out_fp8 + at, (dx / size).to(out_fp8.dtype.element_ty), mask=inside)
