"""Exact GELU and its gradient, fused with the quantisation of the result.

A row of 18,176 values is looked at twice, the second time out of the cache: first for its scale, then for its values.
The scale comes from a bound that needs no GELU: FP8 is a floating-point format, so a scale that is somewhat too large
costs nothing but the smallest values.

Shapes: M rows (tokens), F ffn. Grids and dummy pointers: see `falconer.kernels`.
"""

import torch
import triton
import triton.language as tl

from falconer.kernels.formats import Operand, Want
from falconer.kernels.quantise import LARGEST, SMALLEST, empty_operand

BLOCK = 2048
# GELU is never below -0.17, and its slope never outside of -0.13 to 1.13.
LOWEST = tl.constexpr(0.17)
STEEPEST = tl.constexpr(1.13)


def gelu(x_MF: torch.Tensor, want: Want) -> Operand:
    """See `reference.gelu`; the FP8 scale is a bound here, up to 1.0 times the largest value or 0.17."""
    return _launch(x_MF, x_MF, want, grad=False)


def gelu_grad(grad_MF: torch.Tensor, x_MF: torch.Tensor, want: Want) -> Operand:
    """See `reference.gelu_grad`; the FP8 scale is a bound here: 1.13 times the incoming gradient's largest value."""
    return _launch(grad_MF, x_MF, want, grad=True)


def _launch(grad_MF: torch.Tensor, x_MF: torch.Tensor, want: Want, grad: bool) -> Operand:
    num_rows, width = x_MF.shape
    out, pointers = empty_operand(num_rows, width, want, x_MF)
    _gelu[(num_rows,)](
        grad_MF, x_MF, *pointers, width=width, backward=grad, plain=want.plain, quantised=want.fp8, BLOCK=BLOCK,
        num_warps=16 if grad else 8,
    )  # fmt: skip
    return out


@triton.jit
def _gelu(
    grad, x, out, out_fp8, scale,
    width: tl.constexpr, backward: tl.constexpr, plain: tl.constexpr, quantised: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (M,).

    Args:
        grad: [M, F]; of the output if `backward`, else x again, whose largest value bounds the output's.
        x: [M, F], GELU's input.
        out, out_fp8, scale: the result, as `quantise.empty_operand` makes room for it.
        width: F.
    """
    row = tl.program_id(0).to(tl.int64)
    size = 1.0
    if quantised:
        largest = tl.zeros([BLOCK], tl.float32)
        for start in range(0, width, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            values = tl.load(grad + row * width + columns, mask=columns < width, other=0).to(tl.float32)
            largest = tl.maximum(largest, tl.abs(values) if backward else values)
        bound = tl.max(largest)
        bound = bound * STEEPEST if backward else tl.maximum(bound, LOWEST)
        size = tl.maximum(bound / LARGEST, SMALLEST)
        tl.store(scale + row, size)
    for start in range(0, width, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < width
        at = row * width + columns
        value = tl.load(x + at, mask=inside, other=0).to(tl.float32)
        # The normal distribution by Abramowitz and Stegun 7.1.26, within 7.5e-8: it shares its exponential with the
        # density and has no branch, so it is cheaper than erf.
        bell = tl.exp(-0.5 * value * value)
        t = 1 / (1 + 0.2316418882663604 * tl.abs(value))
        tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
        tail = 0.5 * tail * bell
        cumulative = tl.where(value >= 0, 1 - tail, tail)
        if backward:
            slope = cumulative + value * bell * 0.3989422804014327
            result = tl.load(grad + at, mask=inside, other=0).to(tl.float32) * slope
        else:
            result = value * cumulative
        if plain:
            tl.store(out + at, result.to(out.dtype.element_ty), mask=inside)
        if quantised:
            tl.store(out_fp8 + at, (result / size).to(out_fp8.dtype.element_ty), mask=inside)
