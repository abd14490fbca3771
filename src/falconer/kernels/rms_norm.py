"""RMS norm with a frozen weight (Zhang and Sennrich 2019, arXiv:1910.07467), and the gradient of its input.

Some models store the weight's distance from one (Gemma): `offset` is 1 there, and 0 elsewhere.

Shapes: M rows, D width. Grids: see `falconer.kernels`.
"""

import torch
import triton
import triton.language as tl

# Values of a tile: narrow rows, such as those of single heads, share a program.
TILE = 4096


def rms_norm(
    x_MD: torch.Tensor, weight: torch.Tensor, eps: float, offset: float
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """See `generic_reference.rms_norm`."""
    num_rows, width = x_MD.shape
    out, rstd = torch.empty_like(x_MD), torch.empty(num_rows, dtype=torch.float32, device=x_MD.device)
    block, rows = _tile(width)
    _rms_norm[(triton.cdiv(num_rows, rows),)](
        x_MD, weight, out, rstd, num_rows, eps, offset, width=width, BLOCK_M=rows, BLOCK=block, num_warps=4
    )
    return out, rstd


def rms_norm_grad(
    grad_MD: torch.Tensor, x_MD: torch.Tensor, rstd: torch.Tensor, weight: torch.Tensor, offset: float
) -> torch.Tensor:
    """See `generic_reference.rms_norm_grad`."""
    num_rows, width = x_MD.shape
    out = torch.empty_like(x_MD)
    block, rows = _tile(width)
    _rms_norm_grad[(triton.cdiv(num_rows, rows),)](
        grad_MD, x_MD, rstd, weight, out, num_rows, offset, width=width, BLOCK_M=rows, BLOCK=block, num_warps=4
    )
    return out


def _tile(width: int) -> tuple[int, int]:
    block = triton.next_power_of_2(width)
    return block, max(1, TILE // block)


@triton.jit
def _rms_norm(
    x, weight, out, rstd, num_rows, eps, offset, width: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK: tl.constexpr
):
    """Grid (M / BLOCK_M,).

    Args:
        x, out: [M, D].
        weight: [D].
        rstd: fp32 [M], one over the root of the mean square.
        width: D.
    """
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK)
    at = rows[:, None] * width + columns[None, :]
    inside = (rows < num_rows)[:, None] & (columns < width)[None, :]
    values = tl.load(x + at, mask=inside, other=0).to(tl.float32)
    inverse = tl.rsqrt(tl.sum(values * values, axis=1) / width + eps)
    tl.store(rstd + rows, inverse, mask=rows < num_rows)
    w = tl.load(weight + columns, mask=columns < width, other=0).to(tl.float32) + offset
    tl.store(out + at, (values * inverse[:, None] * w[None, :]).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _rms_norm_grad(
    grad, x, rstd, weight, out, num_rows, offset, width: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK: tl.constexpr
):
    """Grid (M / BLOCK_M,).

    Args:
        grad, x: [M, D], the gradient of the norm's output, and its input.
        rstd, weight: see `_rms_norm`.
        out: [M, D], the gradient of the norm's input.
        width: D.
    """
    rows = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK)
    at = rows[:, None] * width + columns[None, :]
    inside = (rows < num_rows)[:, None] & (columns < width)[None, :]
    inverse = tl.load(rstd + rows, mask=rows < num_rows, other=0)[:, None]
    unit = tl.load(x + at, mask=inside, other=0).to(tl.float32) * inverse
    w = tl.load(weight + columns, mask=columns < width, other=0).to(tl.float32) + offset
    scaled = tl.load(grad + at, mask=inside, other=0).to(tl.float32) * w[None, :]
    dx = (scaled - unit * (tl.sum(scaled * unit, axis=1) / width)[:, None]) * inverse
    tl.store(out + at, dx.to(out.dtype.element_ty), mask=inside)
