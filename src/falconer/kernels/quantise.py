"""Activations and gradients in FP8: rows scaled by their largest value, and the product of two such matrices."""

import torch
import triton
import triton.language as tl

from falconer.kernels.formats import FP8, FP8_MAX, SMALLEST_SCALE, Fp8

LARGEST = tl.constexpr(FP8_MAX)
SMALLEST = tl.constexpr(SMALLEST_SCALE)


def quantise(x_MK: torch.Tensor) -> Fp8:
    """See `reference.quantise`; rows may be apart from each other, values in a row may not."""
    num_rows, width = x_MK.shape
    assert x_MK.stride(1) == 1
    out = empty_fp8(num_rows, width, x_MK.device)
    _quantise[(num_rows,)](
        x_MK, out.values, out.scale, x_MK.stride(0), width=width, BLOCK=triton.next_power_of_2(width), num_warps=8
    )
    return out


def empty_fp8(num_rows: int, width: int, device: torch.device) -> Fp8:
    """Return an FP8 matrix [M, K] that is yet to be filled."""
    return Fp8(
        torch.empty(num_rows, width, dtype=FP8, device=device),
        torch.empty(num_rows, 1, dtype=torch.float32, device=device),
    )


def scaled_product(left: Fp8, right: Fp8, dtype: torch.dtype) -> torch.Tensor:
    """See `reference.scaled_product`; K and N must be multiples of 16 on the GPU."""
    if not left.values.is_cuda:
        # The CPU has no such product; Triton's interpreter runs there.
        return ((left.values.float() * left.scale) @ (right.values.float() * right.scale).T).to(dtype)
    return torch._scaled_mm(
        left.values, right.values.T, left.scale, right.scale.T, out_dtype=dtype, use_fast_accum=True
    )


@triton.jit
def row_scale(x):
    """Return the scale that brings the largest of a row's values to FP8's largest number."""
    return tl.maximum(tl.max(tl.abs(x)) / LARGEST, SMALLEST)


@triton.jit
def _quantise(x, out, scale, stride, width: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    values = tl.load(x + row * stride + columns, mask=inside, other=0).to(tl.float32)
    size = row_scale(values)
    tl.store(scale + row, size)
    tl.store(out + row * width + columns, (values / size).to(out.dtype.element_ty), mask=inside)
