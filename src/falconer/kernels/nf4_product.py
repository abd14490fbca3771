"""Multiplying few rows with a 4-bit weight directly, without storing the dequantised weight.

The weight is read once, half a byte a value, which is a quarter of what bf16 takes; with so few rows the reading is all
that takes time. One row is multiplied in registers, up to 16 by the tensor cores. The two values of a byte meet the two
halves of the input that stand at even and at odd places, so nothing has to be interleaved.

Shapes: M rows of the input, N outputs, K inputs. Grids and dummy pointers: see `falconer.kernels`; arguments of 4-bit
weights: see `falconer.kernels.nf4`.
"""

import torch
import triton
import triton.language as tl

from falconer.kernels.formats import NF4_ROWS, Nf4
from falconer.kernels.nf4 import nf4_pointers, unpacked

# Rows of the weight in a program, and NF4 blocks of each that it takes at a time.
BLOCK_N_ONE, BLOCK_N = 8, 32
BLOCKS_ONE, BLOCKS = 8, 4


def nf4_product(x_MK: torch.Tensor, weight: Nf4) -> torch.Tensor:
    """See `reference.nf4_product`; at most NF4_ROWS rows, and K must be a multiple of the block size."""
    num_rows, width = x_MK.shape
    num_outputs = weight.shape[0]
    assert num_rows <= NF4_ROWS and width % weight.block_size == 0 and x_MK.is_contiguous()
    out = torch.empty(num_rows, num_outputs, dtype=x_MK.dtype, device=x_MK.device)
    options = {
        "num_outputs": num_outputs, "width": width, "block_size": weight.block_size,
        "nested_block_size": weight.nested_block_size, "nested": weight.nested_absmax is not None,
    }  # fmt: skip
    if num_rows == 1:
        _one_row[(triton.cdiv(num_outputs, BLOCK_N_ONE),)](
            x_MK, *nf4_pointers(weight), out, **options, BLOCK_N=BLOCK_N_ONE, BLOCKS=BLOCKS_ONE, num_warps=4
        )
    else:
        _few_rows[(triton.cdiv(num_outputs, BLOCK_N),)](
            x_MK,
            *nf4_pointers(weight),
            out,
            num_rows,
            **options,
            BLOCK_M=NF4_ROWS,
            BLOCK_N=BLOCK_N,
            BLOCKS=BLOCKS,
            num_warps=4,
        )
    return out


@triton.jit
def _one_row(
    x, packed, code, absmax, nested_code, nested_absmax, offset, out, num_outputs: tl.constexpr, width: tl.constexpr,
    block_size: tl.constexpr, nested_block_size: tl.constexpr, nested: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCKS: tl.constexpr,
):  # fmt: skip
    """Grid (N / BLOCK_N,). x [1, K]; out [1, N]; the weight as in `falconer.kernels.nf4`."""
    HALF: tl.constexpr = block_size // 2
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros([BLOCK_N, BLOCKS, HALF], tl.float32)
    for start in range(0, width // block_size, BLOCKS):
        blocks = start + tl.arange(0, BLOCKS)
        high, low, largest = unpacked(
            packed, code, absmax, nested_code, nested_absmax, offset, rows, blocks, num_outputs, width, block_size,
            nested_block_size, nested,
        )  # fmt: skip
        pairs = blocks[:, None] * HALF + tl.arange(0, HALF)[None, :]
        at = pairs[:, :, None] * 2 + tl.arange(0, 2)[None, None, :]
        even, odd = tl.split(tl.load(x + at, mask=at < width, other=0).to(tl.float32))
        total += (high * even[None, :, :] + low * odd[None, :, :]) * largest[:, :, None]
    result = tl.sum(tl.sum(total, 2), 1)
    tl.store(out + rows, result.to(out.dtype.element_ty), mask=rows < num_outputs)


@triton.jit
def _few_rows(
    x, packed, code, absmax, nested_code, nested_absmax, offset, out, num_rows, num_outputs: tl.constexpr,
    width: tl.constexpr, block_size: tl.constexpr, nested_block_size: tl.constexpr, nested: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Grid (N / BLOCK_N,). x [M, K] with M up to BLOCK_M; out [M, N]; the weight as in `falconer.kernels.nf4`."""
    HALF: tl.constexpr = block_size // 2
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inputs = tl.arange(0, BLOCK_M)
    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for start in range(0, width // block_size, BLOCKS):
        high, low, largest = unpacked(
            packed, code, absmax, nested_code, nested_absmax, offset, rows, start + tl.arange(0, BLOCKS), num_outputs,
            width, block_size, nested_block_size, nested,
        )  # fmt: skip
        high = tl.reshape(high * largest[:, :, None], [BLOCK_N, BLOCKS * HALF]).to(x.dtype.element_ty)
        low = tl.reshape(low * largest[:, :, None], [BLOCK_N, BLOCKS * HALF]).to(x.dtype.element_ty)
        columns = (start * HALF + tl.arange(0, BLOCKS * HALF))[:, None] * 2
        known = (columns < width) & (inputs < num_rows)[None, :]
        at = inputs[None, :] * width + columns
        total = tl.dot(high, tl.load(x + at, mask=known, other=0), total, input_precision="ieee")
        total = tl.dot(low, tl.load(x + at + 1, mask=known, other=0), total, input_precision="ieee")
    at = inputs[None, :] * num_outputs + rows[:, None]
    inside = (inputs < num_rows)[None, :] & (rows < num_outputs)[:, None]
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)
