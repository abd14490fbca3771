"""Dequantising a 4-bit weight to the format that a matmul needs: bf16, or FP8, transposed or not.

One pass over memory: half a byte is read for each value, one or two are written. bitsandbytes dequantises into bf16
only, and the scales of double quantisation in a kernel of their own.

Shapes: N rows of the weight (outputs), K values of a row (inputs), S = block_size values with a scale of their own.
Grids and dummy pointers: see `falconer.kernels`. Arguments of every kernel on 4-bit weights, see `formats.Nf4`:

- packed: uint8 [N * K / 2], two codes a byte, the first in its high half; code: fp32 [16], what they stand for.
- absmax: the blocks' scales [N * K / S], fp32; or uint8 if `nested`, and then absmax = nested_code[absmax] *
  nested_absmax[block / nested_block_size] + offset, with fp32 [256], [N * K / S / nested_block_size] and [1].
- width, block_size: K, S.
"""

import torch
import triton
import triton.language as tl

from falconer.kernels.formats import FP8, Fp8, Nf4

# Values of a row that one program unpacks, and rows of a program; measured with benchmarks/bench_kernels.py.
BLOCK_K = 64
BLOCK_N = 128


def dequantise(weight: Nf4, dtype: torch.dtype) -> torch.Tensor:
    """See `reference.dequantise`; K must be a multiple of the block size."""
    out = torch.empty(weight.shape, dtype=dtype, device=weight.packed.device)
    _launch(weight, out, None, transposed=False)
    return out


def dequantise_fp8(weight: Nf4, scale: torch.Tensor, transposed: bool) -> Fp8:
    """See `reference.dequantise_fp8`; K must be a multiple of the block size."""
    num_rows, width = weight.shape
    shape = (width, num_rows) if transposed else (num_rows, width)
    out = torch.empty(shape, dtype=FP8, device=weight.packed.device)
    _launch(weight, out, scale, transposed)
    return Fp8(out, scale)


def _launch(weight: Nf4, out: torch.Tensor, scale: torch.Tensor | None, transposed: bool) -> None:
    num_rows, width = weight.shape
    assert width % weight.block_size == 0, f"rows of {width} values end inside a block of {weight.block_size}"
    grid = (triton.cdiv(num_rows, BLOCK_N), triton.cdiv(width, BLOCK_K))
    _dequantise[grid](
        *nf4_pointers(weight), out if scale is None else scale, out,
        num_rows, width=width, block_size=weight.block_size, nested_block_size=weight.nested_block_size,
        nested=weight.nested_absmax is not None, scaled=scale is not None, transposed=transposed,
        BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K, num_warps=4,
    )  # fmt: skip


def nf4_pointers(weight: Nf4) -> tuple[torch.Tensor, ...]:
    """Return the six pointers by which a kernel reads a 4-bit weight, `packed` to `offset`."""
    nested = (weight.nested_code, weight.nested_absmax, weight.offset)
    return weight.packed, weight.code, weight.absmax, *(weight.absmax if x is None else x for x in nested)


@triton.jit
def unpacked(
    packed, code, absmax, nested_code, nested_absmax, offset, rows, blocks, num_rows, width: tl.constexpr,
    block_size: tl.constexpr, nested_block_size: tl.constexpr, nested: tl.constexpr,
):  # fmt: skip
    """Unpack the NF4 blocks `blocks` of the rows `rows`; what is outside the weight is some number.

    Returns:
        The codes' values in the bytes' high and low halves, fp32 [rows, blocks, S / 2]: a row's values at even and at
        odd places; and the blocks' scales, fp32 [rows, blocks].
    """
    HALF: tl.constexpr = block_size // 2
    present = (rows[:, None] < num_rows) & (blocks[None, :] < width // block_size)
    number = rows[:, None].to(tl.int64) * (width // block_size) + blocks[None, :]
    largest = tl.load(absmax + number, mask=present, other=0)
    if nested:
        largest = tl.load(nested_code + largest.to(tl.int32)) * tl.load(
            nested_absmax + number // nested_block_size, mask=present, other=0
        ) + tl.load(offset)
    at = number[:, :, None] * HALF + tl.arange(0, HALF)[None, None, :]
    byte = tl.load(packed + at, mask=present[:, :, None], other=0)
    return tl.load(code + (byte >> 4).to(tl.int32)), tl.load(code + (byte & 15).to(tl.int32)), largest


@triton.jit
def _dequantise(
    packed, code, absmax, nested_code, nested_absmax, offset, scale, out, num_rows,
    width: tl.constexpr, block_size: tl.constexpr, nested_block_size: tl.constexpr, nested: tl.constexpr,
    scaled: tl.constexpr, transposed: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Grid (N / BLOCK_N, K / BLOCK_K).

    Args:
        scale: fp32 [N], or [K] if `transposed`; values are divided by it if `scaled`, or `transposed`.
        out: [N, K], or [K, N] if `transposed`.
    """
    BLOCKS: tl.constexpr = BLOCK_K // block_size
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    blocks = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
    high, low, largest = unpacked(
        packed, code, absmax, nested_code, nested_absmax, offset, rows, blocks, num_rows, width, block_size,
        nested_block_size, nested,
    )  # fmt: skip
    high, low = high * largest[:, :, None], low * largest[:, :, None]
    values = tl.reshape(tl.interleave(high, low), [BLOCK_N, BLOCK_K])
    columns = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    inside = (rows[:, None] < num_rows) & (columns[None, :] < width)
    if transposed:
        values = values / tl.load(scale + columns, mask=columns < width, other=1.0)[None, :]
        at = columns[:, None].to(tl.int64) * num_rows + rows[None, :]
        tl.store(out + at, tl.trans(values).to(out.dtype.element_ty), mask=tl.trans(inside))
    else:
        if scaled:
            values = values / tl.load(scale + rows, mask=rows < num_rows, other=1.0)[:, None]
        at = rows[:, None].to(tl.int64) * width + columns[None, :]
        tl.store(out + at, values.to(out.dtype.element_ty), mask=inside)
