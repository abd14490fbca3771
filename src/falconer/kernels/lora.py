"""The low-rank matmuls of a LoRA, fused with dropout, whose mask is a hash of a seed and is never stored.

The input may be a LayerNorm's output that is recomputed from the norm's input (`Normed`), so that it need not be stored
in bf16 if the base matmul uses FP8.

Shapes: M rows (tokens), K inputs, R LoRA rank. Grids and dummy pointers: see `falconer.kernels`. Arguments that every
kernel here has:

- x, mean, rstd, weight, bias: the LoRA's input [M, K]; or, if `normed`, a LayerNorm's input [M, K] with its statistics
  fp32 [M] and weights [K], from which the norm's output is recomputed.
- seed, threshold, factor: the dropout, if `drops`: a value is kept where the hash of its position plus seed reaches the
  threshold, and is multiplied by the factor. The seed is a number or, if `stored`, in memory (int64), where a CUDA
  graph finds another one each time that it is replayed.
- width, rank: K and R.

A kernel is not compiled again for a seed that is a multiple of 16, or lies at one.
"""

import torch
import triton
import triton.language as tl

from falconer.kernels.formats import Dropout, Normed

BLOCK_M = 32
BLOCK_K = 128
# Rows are shared out over so many programs for each block of columns, and their sums added up afterwards.
NUM_SPLITS = 16


def lora_down(x: torch.Tensor | Normed, a_RK: torch.Tensor, dropout: Dropout | None) -> torch.Tensor:
    """See `reference.lora_down`."""
    return _down(x, a_RK, dropout, None, None)[0]


def lora_down_pair(
    x: torch.Tensor | Normed, a_RK: torch.Tensor, dropout: Dropout | None, second_RK: torch.Tensor,
    second_dropout: Dropout | None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """See `reference.lora_down_pair`; the input is read once. Both must have one rank and one share of dropout."""
    assert a_RK.shape == second_RK.shape
    assert (dropout and dropout.share) == (second_dropout and second_dropout.share)
    return _down(x, a_RK, dropout, second_RK, second_dropout)


def _down(
    x: torch.Tensor | Normed, a_RK: torch.Tensor, dropout: Dropout | None, second_RK: torch.Tensor | None,
    second_dropout: Dropout | None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    values, extra = _input(x)
    num_rows, width = values.shape
    rank = len(a_RK)
    out, second = (torch.empty(num_rows, rank, dtype=a_RK.dtype, device=a_RK.device) for _ in range(2))
    _lora_down[(triton.cdiv(num_rows, BLOCK_M),)](
        values, *extra, a_RK, a_RK if second_RK is None else second_RK, out, second, num_rows,
        *_dropout(dropout, width), _dropout(second_dropout, width)[0], width=width, rank=rank,
        normed=isinstance(x, Normed), drops=dropout is not None, pair=second_RK is not None, stored=_is_stored(dropout),
        second_stored=_is_stored(second_dropout),
        BLOCK_M=BLOCK_M, BLOCK_K=BLOCK_K, BLOCK_R=_block_r(rank), num_warps=4,
    )  # fmt: skip
    return out, second


def lora_grad_a(grad_MR: torch.Tensor, x: torch.Tensor | Normed, dropout: Dropout | None) -> torch.Tensor:
    """See `reference.lora_grad_a`."""
    values, extra = _input(x)
    num_rows, width = values.shape
    rank = grad_MR.shape[1]
    parts = torch.empty(NUM_SPLITS, rank, width, dtype=torch.float32, device=values.device)
    _lora_grad_a[(triton.cdiv(width, BLOCK_K), NUM_SPLITS)](
        grad_MR, values, *extra, parts, num_rows, *_dropout(dropout, width), width=width, rank=rank,
        normed=isinstance(x, Normed), drops=dropout is not None, stored=_is_stored(dropout), NUM_SPLITS=NUM_SPLITS,
        BLOCK_M=BLOCK_M, BLOCK_K=BLOCK_K, BLOCK_R=_block_r(rank), num_warps=4,
    )  # fmt: skip
    return parts.sum(dim=0)


def lora_grad_input_(grad_MK: torch.Tensor, grad_MR: torch.Tensor, a_RK: torch.Tensor, dropout: Dropout | None) -> None:
    """See `reference.lora_grad_input_`."""
    num_rows, width = grad_MK.shape
    rank = len(a_RK)
    _lora_grad_input[(triton.cdiv(num_rows, BLOCK_M), triton.cdiv(width, BLOCK_K))](
        grad_MK, grad_MR, a_RK, num_rows, *_dropout(dropout, width), width=width, rank=rank, drops=dropout is not None,
        stored=_is_stored(dropout), BLOCK_M=BLOCK_M, BLOCK_K=BLOCK_K, BLOCK_R=_block_r(rank), num_warps=4,
    )  # fmt: skip


def sample_dropout(num_rows: int, width: int, share: float, device: torch.device) -> Dropout:
    """Sample a seed from torch's CPU generator; the mask is `reference.hashed_mask` of it."""
    assert num_rows * width < 2**32, "the mask's hash counts positions in 32 bits"
    return Dropout(share, int(torch.randint(2**31, ())))


def _input(x: torch.Tensor | Normed) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    if isinstance(x, Normed):
        return x.hidden, (x.mean, x.rstd, x.norm.weight, x.norm.bias)
    return x, (x, x, x, x)


def _is_stored(dropout: Dropout | None) -> bool:
    return dropout is not None and isinstance(dropout.mask, torch.Tensor)


def _dropout(dropout: Dropout | None, width: int) -> tuple[int | torch.Tensor, int, float]:
    if dropout is None:
        return 0, 0, 1.0
    return dropout.mask, round(dropout.share * 2**32), 1 / (1 - dropout.share)


def _block_r(rank: int) -> int:
    return max(16, triton.next_power_of_2(rank))


@triton.jit
def lowbias32(x):
    """Return `reference.lowbias32` of uint32 numbers."""
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _seed(seed, stored: tl.constexpr):
    if stored:
        return tl.load(seed)
    else:
        return seed


@triton.jit
def _kept(rows, columns, width: tl.constexpr, seed, threshold):
    position = rows[:, None].to(tl.uint32) * width + columns[None, :].to(tl.uint32)
    return lowbias32(position + seed.to(tl.uint32)) >= threshold.to(tl.uint32)


@triton.jit
def _load_input(
    x, mean, rstd, weight, bias, rows, columns, num_rows, width: tl.constexpr, normed: tl.constexpr,
):  # fmt: skip
    """Load a tile [rows, columns] of the input in fp32, zero outside."""
    inside = (rows < num_rows)[:, None] & (columns < width)[None, :]
    values = tl.load(x + rows[:, None].to(tl.int64) * width + columns[None, :], mask=inside, other=0).to(tl.float32)
    if normed:
        mu = tl.load(mean + rows, mask=rows < num_rows, other=0)[:, None]
        inverse = tl.load(rstd + rows, mask=rows < num_rows, other=0)[:, None]
        w = tl.load(weight + columns, mask=columns < width, other=0).to(tl.float32)[None, :]
        b = tl.load(bias + columns, mask=columns < width, other=0).to(tl.float32)[None, :]
        values = (values - mu) * inverse * w + b
        # Rounded as the base matmul would have got it.
        values = values.to(x.dtype.element_ty).to(tl.float32)
    return tl.where(inside, values, 0.0)


@triton.jit
def _dropped(values, rows, columns, seed, threshold, factor, width: tl.constexpr, drops: tl.constexpr):
    if drops:
        values = tl.where(_kept(rows, columns, width, seed, threshold), values * factor, 0.0)
    return values


@triton.jit(do_not_specialize_on_alignment=["seed", "second_seed"])
def _lora_down(
    x, mean, rstd, weight, bias, a, second_a, out, second_out, num_rows, seed, threshold, factor, second_seed,
    width: tl.constexpr, rank: tl.constexpr, normed: tl.constexpr, drops: tl.constexpr, pair: tl.constexpr,
    stored: tl.constexpr, second_stored: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Grid (M / BLOCK_M,).

    Args:
        a, second_a: [R, K], the first matrices; the second one, with a dropout of its own, if `pair`.
        out, second_out: [M, R].
    """
    seed = _seed(seed, stored)
    second_seed = _seed(second_seed, second_stored)
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    ranks = tl.arange(0, BLOCK_R)
    total = tl.zeros([BLOCK_M, BLOCK_R], tl.float32)
    second = tl.zeros([BLOCK_M, BLOCK_R], tl.float32)
    for start in range(0, width, BLOCK_K):
        columns = start + tl.arange(0, BLOCK_K)
        values = _load_input(x, mean, rstd, weight, bias, rows, columns, num_rows, width, normed)
        known = (columns < width)[:, None] & (ranks < rank)[None, :]
        at_a = ranks[None, :] * width + columns[:, None]
        dropped = _dropped(values, rows, columns, seed, threshold, factor, width, drops).to(a.dtype.element_ty)
        total = tl.dot(dropped, tl.load(a + at_a, mask=known, other=0), total, input_precision="ieee")
        if pair:
            dropped = _dropped(values, rows, columns, second_seed, threshold, factor, width, drops)
            part = tl.load(second_a + at_a, mask=known, other=0)
            second = tl.dot(dropped.to(a.dtype.element_ty), part, second, input_precision="ieee")
    at = rows[:, None].to(tl.int64) * rank + ranks[None, :]
    inside = (rows < num_rows)[:, None] & (ranks < rank)[None, :]
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)
    if pair:
        tl.store(second_out + at, second.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize_on_alignment=["seed"])
def _lora_grad_a(
    grad, x, mean, rstd, weight, bias, parts, num_rows, seed, threshold, factor,
    width: tl.constexpr, rank: tl.constexpr, normed: tl.constexpr, drops: tl.constexpr, stored: tl.constexpr,
    NUM_SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Grid (K / BLOCK_K, NUM_SPLITS): program (k, s) adds up every NUM_SPLITS-th block of rows, from the s-th on.

    Args:
        grad: [M, R], of the inner activation.
        parts: fp32 [NUM_SPLITS, R, K]; their sum is the gradient of the first matrix.
    """
    seed = _seed(seed, stored)
    columns = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    ranks = tl.arange(0, BLOCK_R)
    total = tl.zeros([BLOCK_R, BLOCK_K], tl.float32)
    for start in range(tl.program_id(1) * BLOCK_M, num_rows, NUM_SPLITS * BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        values = _load_input(x, mean, rstd, weight, bias, rows, columns, num_rows, width, normed)
        values = _dropped(values, rows, columns, seed, threshold, factor, width, drops)
        known = (rows < num_rows)[None, :] & (ranks < rank)[:, None]
        inner = tl.load(grad + rows[None, :].to(tl.int64) * rank + ranks[:, None], mask=known, other=0)
        total = tl.dot(inner, values.to(grad.dtype.element_ty), total, input_precision="ieee")
    at = tl.program_id(1) * rank * width + ranks[:, None] * width + columns[None, :]
    tl.store(parts + at, total, mask=(ranks < rank)[:, None] & (columns < width)[None, :])


@triton.jit(do_not_specialize_on_alignment=["seed"])
def _lora_grad_input(
    grad, inner, a, num_rows, seed, threshold, factor,
    width: tl.constexpr, rank: tl.constexpr, drops: tl.constexpr, stored: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Grid (M / BLOCK_M, K / BLOCK_K).

    Args:
        grad: [M, K], of the input; the LoRA's part is added in place.
        inner: [M, R], the gradient of the inner activation.
        a: [R, K], the first matrix.
    """
    seed = _seed(seed, stored)
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    ranks = tl.arange(0, BLOCK_R)
    left = tl.load(
        inner + rows[:, None].to(tl.int64) * rank + ranks[None, :],
        mask=(rows < num_rows)[:, None] & (ranks < rank)[None, :], other=0,
    )  # fmt: skip
    right = tl.load(
        a + ranks[:, None] * width + columns[None, :], mask=(ranks < rank)[:, None] & (columns < width)[None, :],
        other=0,
    )  # fmt: skip
    part = tl.dot(left, right, input_precision="ieee")
    if drops:
        part = tl.where(_kept(rows, columns, width, seed, threshold), part * factor, 0.0)
    at = rows[:, None].to(tl.int64) * width + columns[None, :]
    inside = (rows < num_rows)[:, None] & (columns < width)[None, :]
    part += tl.load(grad + at, mask=inside, other=0).to(tl.float32)
    tl.store(grad + at, part.to(grad.dtype.element_ty), mask=inside)
