"""LayerNorm with frozen weights, fused with the residual additions before it and the quantisation after it.

A row is read once; its statistics are in fp32.

Shapes: M rows (tokens), D hidden. Grids and dummy pointers: see `falconer.kernels`.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from falconer.kernels.formats import Norm, Normed, Operand, Want
from falconer.kernels.quantise import empty_operand, row_of, store_row


def add_layer_norm(
    hidden_MD: torch.Tensor, branches: Sequence[torch.Tensor], norm: Norm, want: Want
) -> tuple[Normed, Operand]:
    """See `reference.add_layer_norm`."""
    return add_layer_norms(hidden_MD, branches, (norm,), want)[0]


def add_layer_norms(
    hidden_MD: torch.Tensor, branches: Sequence[torch.Tensor], norms: Sequence[Norm], want: Want
) -> list[tuple[Normed, Operand]]:
    """See `reference.add_layer_norms`; the input and its statistics are read and computed once."""
    num_rows, width = hidden_MD.shape
    first_norm, last_norm = norms[0], norms[-1]
    assert first_norm.eps == last_norm.eps
    summed = torch.empty_like(hidden_MD) if branches else hidden_MD
    mean, rstd = (torch.empty(num_rows, dtype=torch.float32, device=hidden_MD.device) for _ in range(2))
    made = [empty_operand(num_rows, width, want, hidden_MD) for _ in norms]
    first, second = branches or (hidden_MD, hidden_MD)
    _add_norm[(num_rows,)](
        hidden_MD, first, second, first_norm.weight, first_norm.bias, last_norm.weight, last_norm.bias,
        summed, mean, rstd, *made[0][1], *made[-1][1], first_norm.eps,
        width=width, adds=bool(branches), pair=len(norms) == 2, plain=want.plain, quantised=want.fp8,
        BLOCK=triton.next_power_of_2(width), num_warps=8,
    )  # fmt: skip
    return [(Normed(summed, mean, rstd, norm), out) for norm, (out, _) in zip(norms, made, strict=True)]


def layer_norm_grad(
    grads: Sequence[torch.Tensor], x: Normed, residual_MD: torch.Tensor | None, want: Want, second: Norm | None = None
) -> Operand:
    """See `reference.layer_norm_grad`."""
    num_rows, width = x.hidden.shape
    out, pointers = empty_operand(num_rows, width, want, x.hidden)
    _norm_grad[(num_rows,)](
        grads[0], grads[-1], x.hidden, x.mean, x.rstd, x.norm.weight, (second or x.norm).weight,
        x.hidden if residual_MD is None else residual_MD, *pointers, width=width, adds=len(grads) == 2,
        pair=second is not None, residual=residual_MD is not None, plain=want.plain, quantised=want.fp8,
        BLOCK=triton.next_power_of_2(width), num_warps=8,
    )  # fmt: skip
    return out


@triton.jit
def _add_norm(
    hidden, first, second, weight, bias, second_weight, second_bias, summed, mean, rstd, out, out_fp8, scale,
    second_out, second_out_fp8, second_scale, eps, width: tl.constexpr, adds: tl.constexpr, pair: tl.constexpr,
    plain: tl.constexpr, quantised: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (M,).

    Args:
        hidden, first, second: [M, D]; the residual stream, and the two branches that are added to it if `adds`.
        weight, bias: [D]; second_weight, second_bias: those of a second norm of the same input, if `pair`.
        summed: [M, D], the sum, if `adds`.
        mean, rstd: fp32 [M], the statistics.
        out, out_fp8, scale: the norm's output, see `store_row`; those with `second_` are the second norm's.
        width: D.
    """
    row, columns, at, inside = row_of(width, BLOCK)
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
    store_row(y, out, out_fp8, scale, row, at, inside, plain, quantised)
    if pair:
        w = tl.load(second_weight + columns, mask=inside, other=0).to(tl.float32)
        b = tl.load(second_bias + columns, mask=inside, other=0).to(tl.float32)
        y = centred * inverse * w + b
        store_row(y, second_out, second_out_fp8, second_scale, row, at, inside, plain, quantised)


@triton.jit
def _norm_grad(
    grad, second_grad, hidden, mean, rstd, weight, second_weight, residual_grad, out, out_fp8, scale,
    width: tl.constexpr, adds: tl.constexpr, pair: tl.constexpr, residual: tl.constexpr, plain: tl.constexpr,
    quantised: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (M,).

    Args:
        grad, second_grad: [M, D], gradients of the norm's output; the second one if `adds`. If `pair`, the second one
            is of the output of another norm of the same input.
        hidden, mean, rstd: [M, D] and fp32 [M], the norm's input and its statistics.
        weight, second_weight: [D]; the other norm's if `pair`.
        residual_grad: [M, D], what the residual stream itself brings, if `residual`.
        out, out_fp8, scale: the gradient of the norm's input, see `store_row`.
        width: D.
    """
    row, columns, at, inside = row_of(width, BLOCK)
    dy = tl.load(grad + at, mask=inside, other=0).to(tl.float32)
    if adds and not pair:
        dy += tl.load(second_grad + at, mask=inside, other=0).to(tl.float32)
    x = tl.load(hidden + at, mask=inside, other=0).to(tl.float32)
    inverse = tl.load(rstd + row)
    unit = tl.where(inside, (x - tl.load(mean + row)) * inverse, 0.0)
    scaled = dy * tl.load(weight + columns, mask=inside, other=0).to(tl.float32)
    if pair:
        other = tl.load(second_grad + at, mask=inside, other=0).to(tl.float32)
        scaled += other * tl.load(second_weight + columns, mask=inside, other=0).to(tl.float32)
    dx = (scaled - tl.sum(scaled) / width - unit * (tl.sum(scaled * unit) / width)) * inverse
    if residual:
        dx += tl.load(residual_grad + at, mask=inside, other=0).to(tl.float32)
    dx = tl.where(inside, dx, 0.0)
    store_row(dx, out, out_fp8, scale, row, at, inside, plain, quantised)
