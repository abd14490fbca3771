"""A frozen linear layer on the fast path: its matmul and the gradient of its input, with NF4 or unquantised weights.

NF4 weights are dequantised to the matmul's format each time, unless that is cached. Since the weight is frozen, its FP8
scales are computed once, and there is no weight gradient.

Shapes: M rows, K inputs, N outputs.
"""

from types import ModuleType
from typing import Any

import torch
from torch.nn import functional as F

from falconer.kernels import reference
from falconer.kernels.formats import NF4_ROWS, Fp8, Nf4, Operand, fp8_of, plain_of
from falconer.kernels.nf4_rows import RowProducts
from falconer.model.bnb import bnb


class FrozenLinear:
    """The frozen part of one linear layer without bias.

    Args:
        module: a `Linear4bit` in NF4, or an unquantised linear layer.
        ops: `kernels.reference` or `kernels.fused`.
        dtype: of matmuls and of dequantised weights.
        fp8: multiply in FP8; operands must then be in FP8, otherwise plain tensors (`formats.Want`).
        cache_weights: cache the dequantised weight, for speed, instead of dequantising it for every matmul.
        fused: multiply few rows with the 4-bit weight directly.
        row_kernel: by this CUDA kernel; None, or for a weight that it does not know: by that of `ops`.
    """

    def __init__(
        self, module: Any, ops: ModuleType, dtype: torch.dtype, *, fp8: bool, cache_weights: bool, fused: bool = False,
        row_kernel: RowProducts | None = None,
    ) -> None:  # fmt: skip
        self._ops, self._dtype, self._fp8, self._fused = ops, dtype, fp8, fused
        self._nf4 = nf4_of(module) if is_nf4(module) else None
        knows = row_kernel is not None and self._nf4 is not None and not row_kernel.why_not(self._nf4)
        self._row_kernel = row_kernel if knows and fused else None
        self._weight = module.weight.detach() if self._nf4 is None else None
        self._fp8_cache: tuple[Fp8, Fp8] | None = None
        if fp8:
            whole = self._whole()
            self._scales = reference.weight_scales(whole)
            # The two FP8 copies of an unquantised weight are always cached.
            if cache_weights or self._nf4 is None:
                self._fp8_cache = (self._in_fp8(whole, transposed=False), self._in_fp8(whole, transposed=True))
        elif cache_weights and self._nf4 is not None:
            self._weight = self._whole()

    def product(self, x: Operand) -> torch.Tensor:
        """Return x [M, K] times the transposed weight, [M, N]."""
        if self._fp8:
            return self._ops.scaled_product(fp8_of(x), self._fp8_weight(transposed=False), self._dtype)
        x_MK = plain_of(x)
        if self._fused and self._nf4 is not None and len(x_MK) <= NF4_ROWS:
            if self._row_kernel is not None:
                return self._row_kernel.products([(x_MK, self._nf4)])[0]
            return self._ops.nf4_product(x_MK, self._nf4)
        return F.linear(x_MK, self._whole())

    def grad_input(self, grad: Operand) -> torch.Tensor:
        """Return the gradient of the input [M, K] from that of the product [M, N]."""
        if self._fp8:
            return self._ops.scaled_product(fp8_of(grad), self._fp8_weight(transposed=True), self._dtype)
        return plain_of(grad) @ self._whole()

    def _whole(self) -> torch.Tensor:
        if self._weight is not None:
            return self._weight
        assert self._nf4 is not None
        return self._ops.dequantise(self._nf4, self._dtype)

    def _fp8_weight(self, transposed: bool) -> Fp8:
        if self._fp8_cache is not None:
            return self._fp8_cache[transposed]
        return self._ops.dequantise_fp8(self._nf4, self._scales[transposed], transposed)

    def _in_fp8(self, whole_NK: torch.Tensor, transposed: bool) -> Fp8:
        if self._nf4 is not None:
            return self._ops.dequantise_fp8(self._nf4, self._scales[transposed], transposed)
        return self._ops.quantise(whole_NK.T.contiguous() if transposed else whole_NK)


class LinearPair:
    """Two frozen linear layers that are multiplied at the same time: few rows in one launch, if both kernels allow it.

    The two may have inputs of their own, with the same number of rows.
    """

    def __init__(self, first: FrozenLinear, second: FrozenLinear) -> None:
        self._first, self._second = first, second
        kernel, one, other = first._row_kernel, first._nf4, second._nf4
        self._shared: tuple[RowProducts, Nf4, Nf4] | None = None
        if kernel is not None and kernel is second._row_kernel and one is not None and other is not None:
            self._shared = (kernel, one, other) if kernel.goes_with(one, other) else None

    def is_joint(self, num_rows: int) -> bool:
        """Return whether so many rows are multiplied in one launch."""
        return self._shared is not None and num_rows <= NF4_ROWS

    def products(self, x_MK: torch.Tensor, y_MK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the product of the first layer with x, and that of the second one with y; see `FrozenLinear`."""
        if self._shared is None or not self.is_joint(len(x_MK)):
            return self._first.product(x_MK), self._second.product(y_MK)
        kernel, one, other = self._shared
        out_MN, second_MN = kernel.products([(x_MK, one), (y_MK, other)])
        return out_MN, second_MN


def is_nf4(module: Any) -> bool:
    """Return whether a linear layer's weight is in NF4."""
    state = getattr(module.weight, "quant_state", None) if isinstance(module, bnb.nn.Linear4bit) else None
    return state is not None and state.quant_type == "nf4"


def nf4_of(module: Any) -> Nf4:
    """Return the weight of a linear layer for which `is_nf4` is true."""
    state = module.weight.quant_state
    nested = state.state2
    return Nf4(
        packed=module.weight.detach(), code=state.code, absmax=state.absmax,
        nested_code=nested.code if nested else None, nested_absmax=nested.absmax if nested else None,
        offset=state.offset if nested else None, block_size=state.blocksize,
        nested_block_size=nested.blocksize if nested else 1, shape=tuple(state.shape),
    )  # fmt: skip
