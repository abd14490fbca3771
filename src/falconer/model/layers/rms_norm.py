"""RMS norms as one step of autograd; which modules are RMS norms, a test on each of them shows.

Shapes: M rows, D width.
"""

from types import ModuleType
from typing import Any

import torch
from torch import nn

from falconer.kernels.generic_reference import rms_norm
from falconer.model.layers.again import Again, attach


class OwnRmsNorm:
    """The forward pass of one RMS norm.

    Args:
        module: see `norm_of`.
        offset: what is added to its weight.
    """

    def __init__(self, module: Any, ops: ModuleType, eps: float, offset: float) -> None:
        self._module, self._ops, self._eps, self._offset = module, ops, eps, offset

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        ops, weight, eps, offset = self._ops, self._module.weight.detach(), self._eps, self._offset
        if torch.empty_like(x).stride() != x.stride() or x.stride(-1) != 1:
            x = x.contiguous()
        out: torch.Tensor = _RmsNorm.apply(x, weight, eps, offset, ops)
        if out.requires_grad and x.is_contiguous():
            attach(out, Again(lambda of: ops.rms_norm(_rows(of), weight, eps, offset)[0], x))
        return out


class _RmsNorm(torch.autograd.Function):
    """The norm, differentiable in its input."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float, offset: float, ops: ModuleType
    ) -> torch.Tensor:
        out_MD, rstd = ops.rms_norm(_rows(x), weight, eps, offset)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(x, rstd)
            ctx.weight, ctx.offset, ctx.ops = weight, offset, ops
        return out_MD.as_strided(x.shape, x.stride())

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, rstd = ctx.saved_tensors
        grad = grads[0]
        if grad.stride() != x.stride():
            grad = torch.empty_like(x).copy_(grad)
        grad_MD = ctx.ops.rms_norm_grad(_rows(grad), _rows(x), rstd, ctx.weight, ctx.offset)
        return grad_MD.as_strided(x.shape, x.stride()), None, None, None, None


def norm_of(module: nn.Module, ops: ModuleType) -> OwnRmsNorm | None:
    """Return the forward pass of a module that is an RMS norm with a frozen weight; None for any other module."""
    parameters = dict(module.named_parameters())
    weight = parameters.get("weight")
    if list(parameters) != ["weight"] or weight is None or weight.dim() != 1 or weight.requires_grad:
        return None
    if next(module.children(), None) is not None or not weight.is_floating_point():
        return None
    # Rows of all sizes, so that what is added below the root shows.
    drawn = torch.randn(6, len(weight), generator=torch.Generator().manual_seed(0))
    drawn *= torch.tensor([1e-4, 1e-3, 1e-2, 1.0, 10.0, 100.0])[:, None]
    x_MD = drawn.to(weight.device, weight.dtype)
    try:
        with torch.no_grad():
            expected: Any = module(x_MD)
    except (RuntimeError, TypeError, ValueError, IndexError):  # whatever a module raises that is no norm
        return None
    if not isinstance(expected, torch.Tensor) or expected.shape != x_MD.shape or expected.dtype != x_MD.dtype:
        return None
    for eps in sorted({value for value in vars(module).values() if isinstance(value, float) and 0 <= value < 1e-2}):
        for offset in (0.0, 1.0):
            found = rms_norm(x_MD, weight.detach(), eps, offset)[0]
            rounding = 4 * torch.finfo(x_MD.dtype).eps
            if torch.allclose(found.double(), expected.double(), rtol=rounding, atol=1e-12):
                return OwnRmsNorm(module, ops, eps, offset)
    return None


def _rows(x: torch.Tensor) -> torch.Tensor:
    """Return the rows of a dense tensor in the order in which they lie in memory, [M, D]."""
    return x.as_strided((x.numel() // x.shape[-1], x.shape[-1]), (x.shape[-1], 1), x.storage_offset())
