"""Quantising rows to FP8 with a scale per row, and the matmul of two such matrices.

Also what all kernels share that leave a result in the wanted forms: its memory, and how a row is stored.

Shapes: M rows (tokens), K inputs, N outputs. Grids and dummy pointers: see `falconer.kernels`.
"""

import torch
import triton
import triton.language as tl

from falconer.kernels.formats import FP8, FP8_MAX, SMALLEST_SCALE, Both, Fp8, Operand, Want

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


def empty_operand(
    num_rows: int, width: int, want: Want, like: torch.Tensor
) -> tuple[Operand, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Return memory for a result [M, K] in the wanted forms, and the three pointers that a kernel stores it by.

    Args:
        like: gives the plain form's dtype and the device, and is the dummy pointer of a form that isn't wanted.

    Returns:
        The result that is yet to be filled, and the pointers `out`, `out_fp8` and `scale` of `store_row`.
    """
    if want is Want.PLAIN:
        plain = torch.empty(num_rows, width, dtype=like.dtype, device=like.device)
        return plain, (plain, like, like)
    fp8 = empty_fp8(num_rows, width, like.device)
    if want is Want.FP8:
        return fp8, (like, fp8.values, fp8.scale)
    plain = torch.empty(num_rows, width, dtype=like.dtype, device=like.device)
    return Both(plain, fp8), (plain, fp8.values, fp8.scale)


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
def row_of(width: tl.constexpr, BLOCK: tl.constexpr):
    """Return this program's row, its elements' columns and offsets, and which of them exist."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    return row, columns, row * width + columns, columns < width


@triton.jit
def store_row(values, out, out_fp8, scale, row, at, inside, plain: tl.constexpr, quantised: tl.constexpr):
    """Store one row of a result in the wanted forms.

    Args:
        values: the row in fp32, zero outside.
        out, out_fp8, scale: `empty_operand`'s pointers.
        row, at, inside: the row's number, its elements' offsets, and which of them exist.
        plain, quantised: which forms are wanted.
    """
    if plain:
        tl.store(out + at, values.to(out.dtype.element_ty), mask=inside)
    if quantised:
        size = row_scale(values)
        tl.store(scale + row, size)
        tl.store(out_fp8 + at, (values / size).to(out_fp8.dtype.element_ty), mask=inside)


@triton.jit
def _quantise(x, out, scale, stride, width: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (M,). x [M, width], rows `stride` elements apart; out fp8 [M, width]; scale fp32 [M]."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    values = tl.load(x + row * stride + columns, mask=inside, other=0).to(tl.float32)
    store_row(values, out, out, scale, row, row * width + columns, inside, False, True)
