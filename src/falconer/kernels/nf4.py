"""Unpacking a 4-bit weight once into what a product wants: bf16, or FP8 as it is or transposed.

One pass over memory: half a byte is read for each value, one or two are written. bitsandbytes unpacks into bf16 only,
and the scales of double quantisation in a kernel of their own.
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
    nested = weight.nested_absmax is not None
    grid = (triton.cdiv(num_rows, BLOCK_N), triton.cdiv(width, BLOCK_K))
    _dequantise[grid](
        weight.packed, weight.code, weight.absmax,
        weight.nested_code if nested else weight.absmax, weight.nested_absmax if nested else weight.absmax,
        weight.offset if nested else weight.absmax, out if scale is None else scale, out,
        num_rows, width=width, block_size=weight.block_size, nested_block_size=weight.nested_block_size, nested=nested,
        scaled=scale is not None, transposed=transposed, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K, num_warps=4,
    )  # fmt: skip


@triton.jit
def _dequantise(
    packed, code, absmax, nested_code, nested_absmax, offset, scale, out, num_rows,
    width: tl.constexpr, block_size: tl.constexpr, nested_block_size: tl.constexpr, nested: tl.constexpr,
    scaled: tl.constexpr, transposed: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    BLOCKS: tl.constexpr = BLOCK_K // block_size
    HALF: tl.constexpr = block_size // 2
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    blocks = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
    present = (rows[:, None] < num_rows) & (blocks[None, :] < width // block_size)
    number = rows[:, None].to(tl.int64) * (width // block_size) + blocks[None, :]
    largest = tl.load(absmax + number, mask=present, other=0)
    if nested:
        largest = tl.load(nested_code + largest.to(tl.int32)) * tl.load(
            nested_absmax + number // nested_block_size, mask=present, other=0
        ) + tl.load(offset)
    byte = tl.load(
        packed + number[:, :, None] * HALF + tl.arange(0, HALF)[None, None, :], mask=present[:, :, None], other=0
    )
    high = tl.load(code + (byte >> 4).to(tl.int32)) * largest[:, :, None]
    low = tl.load(code + (byte & 15).to(tl.int32)) * largest[:, :, None]
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
