"""Choosing how 4-bit weights are multiplied in inference: cached dequantised, dequantised each time, or fused.

Fused means that a kernel multiplies few rows with the 4-bit weights directly: the CUDA kernel of `kernels.nf4_rows`, or
where it can't be compiled, Triton's. For many rows, dequantised weights are cached if they fit into memory. For few
rows, one block is timed with and without the fused kernel on a GPU. Where many rows may be few at times, as in a
server's batch, the CUDA kernel multiplies these, too.
"""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from falconer import runtime
from falconer.kernels.formats import NF4_ROWS
from falconer.kernels.nf4_rows import RowProducts
from falconer.kernels.nvrtc import CannotCompile
from falconer.model.falcon.attach import ops_for
from falconer.model.falcon.frozen_linear import FrozenLinear, LinearPair, is_nf4
from falconer.model.falcon.graph import recorded
from falconer.model.falcon.layout import PAIRS, backbone_of, linears_of
from falconer.model.falcon.train_pass import FastPath

# Share of free memory that dequantised weights may use; caches, logits and activations need the rest.
MOST_OF_FREE = MappingProxyType({"cuda": 0.6, "cpu": 0.25})
TIMED_RUNS = 20


@dataclass(frozen=True, slots=True)
class Products:
    """How 4-bit weights are multiplied, and why.

    Args:
        cache_weights: dequantised weights are cached.
        fused: up to NF4_ROWS rows are multiplied with the 4-bit weights directly.
        row_kernel: the CUDA kernel that does so; None: Triton's.
    """

    cache_weights: bool
    fused: bool
    why: str
    row_kernel: RowProducts | None = field(default=None, compare=False, repr=False)


def inference_path(model: Any, products: Products) -> FastPath:
    """Return a fast path for passes without gradients.

    Args:
        model: `why_generic` returns "" for it.
    """
    backbone = backbone_of(model)
    ops = ops_for(backbone.word_embeddings.weight.device)
    return FastPath(
        backbone, ops, fp8=False, memory="fast", cache_weights=products.cache_weights, fused=products.fused,
        row_kernel=products.row_kernel,
    )  # fmt: skip


def choose_products(model: Any, *, is_few: bool, is_cached: bool = False) -> Products:
    """Choose how 4-bit weights are multiplied; for few rows by measuring, on a GPU.

    Args:
        is_few: passes have at most NF4_ROWS rows, as for a single reply.
        is_cached: another path already caches all dequantised weights, so they need no more memory.
    """
    backbone = backbone_of(model)
    needed, device = dequantised_gib(model), backbone.word_embeddings.weight.device
    if needed == 0:
        return Products(False, False, "unquantised weights")
    fits = is_cached or fits_dequantised(needed, runtime.free_gib(device), device.type)
    way = "dequantised once and cached" if fits else "dequantised for each matmul"
    size = f"{needed:.1f} GiB" if needed >= 1 else f"{needed * 1024:.1f} MiB"
    whole = Products(fits, False, f"4-bit weights, {way}: {size} {'fit' if fits else 'do not fit'}")
    if device.type != "cuda":
        return whole
    kernel, reason = row_kernel_for(model)
    if kernel is None and not is_few:
        return whole
    fused_s = _block_s(backbone, cache_weights=False, fused=True, row_kernel=kernel)
    whole_s = _block_s(backbone, cache_weights=fits, fused=False)
    name = f"Triton's, because the CUDA kernel can't be used: {reason}" if kernel is None else "the CUDA kernel"
    times = f"{1e6 * fused_s:.0f} us per block with the fused kernel ({name}), {1e6 * whole_s:.0f} us dequantised"
    if fused_s >= whole_s:
        return Products(whole.cache_weights, False, f"{whole.why}; {times}")
    if is_few:
        return Products(False, True, f"4-bit weights, multiplied by the fused kernel: {times}", kernel)
    return Products(fits, True, f"{whole.why}; up to {NF4_ROWS} rows by the fused kernel: {times}", kernel)


def row_kernel_for(model: Any) -> tuple[RowProducts | None, str]:
    """Return the CUDA kernel for few rows, and why there is none ("" if there is one).

    Args:
        model: with 4-bit weights on a GPU.
    """
    backbone = backbone_of(model)
    nested = _nf4_linears(backbone)[0].weight.quant_state.nested
    try:
        return RowProducts(backbone.word_embeddings.weight.device, nested, runtime.kernel_cache()), ""
    except CannotCompile as reason:
        return None, str(reason)


def fits_dequantised(needed_gib: float, free_gib: float, device_type: str) -> bool:
    """Tell whether dequantised weights are to be cached on a device of type "cuda" or "cpu"."""
    return needed_gib < MOST_OF_FREE[device_type] * free_gib


@torch.inference_mode()
def _block_s(backbone: Any, *, cache_weights: bool, fused: bool, row_kernel: RowProducts | None = None) -> float:
    """Return the seconds of the first block's matmuls with one row, without the host's overhead."""
    layer, weight = backbone.h[0], backbone.word_embeddings.weight
    linears, inputs = {}, {}
    for name, module in linears_of(layer).items():
        base = getattr(module, "base_layer", module)
        linears[name] = FrozenLinear(
            base, ops_for(weight.device), weight.dtype, fp8=False, cache_weights=cache_weights, fused=fused,
            row_kernel=row_kernel,
        )  # fmt: skip
        inputs[name] = torch.randn(1, base.in_features, dtype=weight.dtype, device=weight.device)
    # As `Forward` multiplies them.
    pairs = [(LinearPair(linears[one], linears[other]), inputs[one], inputs[other]) for one, other in PAIRS]

    def step() -> None:
        for pair, x_1K, y_1K in pairs:
            pair.products(x_1K, y_1K)

    replay = recorded(step, weight.device).replay
    return runtime.median_s(replay, weight.device, runs=TIMED_RUNS, warmup=0)


def dequantised_gib(model: Any) -> float:
    """Return the size in GiB of all 4-bit weights of a model when dequantised to its dtype."""
    backbone = backbone_of(model)
    size = backbone.word_embeddings.weight.element_size()
    return sum(m.in_features * m.out_features * size for m in _nf4_linears(backbone)) / 2**30


def _nf4_linears(backbone: Any) -> list[Any]:
    """Return the layers of all blocks whose weights are in 4 bits, without their adapters."""
    modules = [getattr(m, "base_layer", m) for layer in backbone.h for m in linears_of(layer).values()]
    return [module for module in modules if is_nf4(module)]
