"""Rotary position embedding on a fused query-key-value projection, in place, fused with the LoRA's second matmul.

The backward pass writes the three gradients of attention into one tensor, so that no concatenation is needed.

Shapes: M tokens, Q query heads, G groups of E of them with a key/value head each, H head size (HALF of it is turned
against the other half), N = G * (E + 2) * H outputs in the order of `formats.Heads`, R LoRA rank, T positions of the
tables. Grids and dummy pointers: see `falconer.kernels`.
"""

import torch
import triton
import triton.language as tl

from falconer.kernels.formats import Heads, Operand, Want
from falconer.kernels.quantise import empty_operand, row_scale

# Rows of a program, and heads that it turns one after the other with the same angles.
BLOCK_M = 64
HEADS_EACH = 8


def rotate_(
    qkv_MN: torch.Tensor, low_MR: torch.Tensor | None, b_NR: torch.Tensor | None, cos: torch.Tensor, sin: torch.Tensor,
    positions: torch.Tensor, heads: Heads,
) -> None:  # fmt: skip
    """See `reference.rotate_`."""
    num_rows = len(qkv_MN)
    rank = 0 if low_MR is None else low_MR.shape[1]
    # The values are not rotated, and without LoRA there is nothing to do to them.
    num_touched = heads.total if rank else heads.total - heads.num_groups
    _rotate[triton.cdiv(num_rows, BLOCK_M), triton.cdiv(num_touched, HEADS_EACH)](
        qkv_MN, qkv_MN if low_MR is None else low_MR, qkv_MN if b_NR is None else b_NR, cos, sin, positions, num_rows,
        width=heads.width, each=heads.queries_each, num_touched=num_touched, HALF=heads.size // 2, rank=rank,
        BLOCK_M=BLOCK_M, BLOCK_R=max(16, triton.next_power_of_2(rank)), HEADS_EACH=HEADS_EACH,
        num_warps=4 if heads.size <= 64 else 8,
    )  # fmt: skip


def rotate_grad(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, positions: torch.Tensor,
    want: Want,
) -> Operand:  # fmt: skip
    """See `reference.rotate_grad`; all three must be contiguous."""
    num_rows, num_queries, size = q.shape
    heads = Heads(k.shape[1], num_queries, size)
    out, pointers = empty_operand(num_rows, heads.width, want, q)
    block_h = triton.next_power_of_2(heads.total)
    _rotate_grad[(num_rows,)](
        q, k, v, cos, sin, positions, *pointers, groups=heads.num_groups, each=heads.queries_each, HALF=size // 2,
        plain=want.plain, quantised=want.fp8, BLOCK_H=block_h, num_warps=8 if block_h * size <= 8192 else 16,
    )  # fmt: skip
    return out


@triton.jit
def _rotate(
    qkv, low, b, cos, sin, positions, num_rows,
    width: tl.constexpr, each: tl.constexpr, num_touched: tl.constexpr, HALF: tl.constexpr, rank: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_R: tl.constexpr, HEADS_EACH: tl.constexpr,
):  # fmt: skip
    """Grid (M / BLOCK_M, heads / HEADS_EACH).

    Args:
        qkv: [M, N], the projection, changed in place.
        low, b: [M, R] and [N, R], the LoRA's inner activation and second matrix, if `rank` is above 0.
        cos, sin: fp32 [T, HALF].
        positions: int64 [M].
        width, each: N, E.
        num_touched: heads that are touched: all with LoRA, without it all but the values.
    """
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = (rows < num_rows)[:, None]
    columns = tl.arange(0, HALF)
    position = tl.load(positions + rows, mask=rows < num_rows, other=0)[:, None]
    c = tl.load(cos + position * HALF + columns[None, :])
    s = tl.load(sin + position * HALF + columns[None, :])
    if rank > 0:
        ranks = tl.arange(0, BLOCK_R)
        known = (ranks < rank)[:, None]
        inner = tl.load(
            low + rows[:, None].to(tl.int64) * rank + ranks[None, :], mask=inside & (ranks < rank)[None, :], other=0
        )
    first_number = tl.program_id(1) * HEADS_EACH
    for number in range(first_number, tl.minimum(first_number + HEADS_EACH, num_touched)):
        head = number
        if rank == 0:
            # Every group's value is skipped.
            head = number + number // (each + 1)
        at = rows[:, None].to(tl.int64) * width + head * (2 * HALF) + columns[None, :]
        first = tl.load(qkv + at, mask=inside, other=0).to(tl.float32)
        second = tl.load(qkv + at + HALF, mask=inside, other=0).to(tl.float32)
        if rank > 0:
            at_b = (head * (2 * HALF) + columns)[None, :] * rank + ranks[:, None]
            first = tl.dot(inner, tl.load(b + at_b, mask=known, other=0), first, input_precision="ieee")
            second = tl.dot(inner, tl.load(b + at_b + HALF * rank, mask=known, other=0), second, input_precision="ieee")
        is_turned = head % (each + 2) <= each
        turned = tl.where(is_turned, first * c - second * s, first)
        second = tl.where(is_turned, second * c + first * s, second)
        tl.store(qkv + at, turned.to(qkv.dtype.element_ty), mask=inside)
        tl.store(qkv + at + HALF, second.to(qkv.dtype.element_ty), mask=inside)


@triton.jit
def _rotate_grad(
    q, k, v, cos, sin, positions, out, out_fp8, scale,
    groups: tl.constexpr, each: tl.constexpr, HALF: tl.constexpr, plain: tl.constexpr, quantised: tl.constexpr,
    BLOCK_H: tl.constexpr,
):  # fmt: skip
    """Grid (M,).

    Args:
        q, k, v: [M, Q, H], [M, G, H], [M, G, H]; gradients of rotated queries and keys, and of the values.
        cos, sin, positions: as in `_rotate`.
        out, out_fp8, scale: [M, N], the projection's gradient, as `quantise.empty_operand` makes room for it.
        groups, each: G, E.
    """
    row = tl.program_id(0).to(tl.int64)
    heads = tl.arange(0, BLOCK_H)[:, None]
    columns = tl.arange(0, HALF)[None, :]
    group, place = heads // (each + 2), heads % (each + 2)
    at_q = row * (groups * each * 2 * HALF) + (group * each + place) * (2 * HALF) + columns
    at_k = row * (groups * 2 * HALF) + group * (2 * HALF) + columns
    inside = heads < groups * (each + 2)
    is_q, is_k, is_v = inside & (place < each), inside & (place == each), inside & (place == each + 1)
    first = tl.load(q + at_q, mask=is_q, other=0).to(tl.float32)
    second = tl.load(q + at_q + HALF, mask=is_q, other=0).to(tl.float32)
    first += tl.load(k + at_k, mask=is_k, other=0).to(tl.float32)
    second += tl.load(k + at_k + HALF, mask=is_k, other=0).to(tl.float32)
    position = tl.load(positions + row)
    c = tl.load(cos + position * HALF + columns)
    s = tl.load(sin + position * HALF + columns)
    turned = first * c + second * s
    second = second * c - first * s
    first = turned + tl.load(v + at_k, mask=is_v, other=0).to(tl.float32)
    second += tl.load(v + at_k + HALF, mask=is_v, other=0).to(tl.float32)
    at = row * (groups * (each + 2) * 2 * HALF) + heads * (2 * HALF) + columns
    if plain:
        tl.store(out + at, first.to(out.dtype.element_ty), mask=inside)
        tl.store(out + at + HALF, second.to(out.dtype.element_ty), mask=inside)
    if quantised:
        size = tl.maximum(row_scale(first), row_scale(second))
        tl.store(scale + row, size)
        tl.store(out_fp8 + at, (first / size).to(out_fp8.dtype.element_ty), mask=inside)
        tl.store(out_fp8 + at + HALF, (second / size).to(out_fp8.dtype.element_ty), mask=inside)
