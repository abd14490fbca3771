"""How 4-bit weights are multiplied on the fast path where nobody goes back: which of three ways, and why.

Dequantised once and cached, dequantised for every product, or, for few rows, multiplied as they are. Many rows take the
first where it fits. For few rows a GPU is asked: one block is timed in each way.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from falconer import runtime
from falconer.model.falcon.attach import ops_for
from falconer.model.falcon.frozen_linear import FrozenLinear, is_nf4
from falconer.model.falcon.graph import recorded
from falconer.model.falcon.layout import backbone_of, linears_of
from falconer.model.falcon.train_pass import FastPath

# Share of free memory that dequantised weights may take: caches, logits and a pass's values come on top.
MOST_OF_FREE = MappingProxyType({"cuda": 0.6, "cpu": 0.25})
TIMED_RUNS = 20


@dataclass(frozen=True, slots=True)
class Products:
    """How 4-bit weights are multiplied, and why.

    Args:
        hold: dequantised once and cached.
        fused: up to NF4_ROWS rows are multiplied with the weights as they are.
    """

    cache_weights: bool
    fused: bool
    why: str


def inference_path(model: Any, products: Products) -> FastPath:
    """Return a fast path for passes without gradients.

    Args:
        model: `why_generic` has nothing against it.
    """
    backbone = backbone_of(model)
    ops = ops_for(backbone.word_embeddings.weight.device)
    return FastPath(backbone, ops, fp8=False, memory="fast", cache_weights=products.cache_weights, fused=products.fused)


def choose_products(model: Any, *, is_few: bool, is_cached: bool = False) -> Products:
    """Choose how 4-bit weights are multiplied; measured on a GPU for few rows.

    Args:
        is_few: passes have NF4_ROWS rows at most, as a single reply's have.
        is_cached: a path that is there already has all weights dequantised, so these need no more memory.
    """
    backbone = backbone_of(model)
    needed, device = dequantised_gib(model), backbone.word_embeddings.weight.device
    if needed == 0:
        return Products(False, False, "whole weights")
    fits = is_cached or needed < MOST_OF_FREE[device.type] * runtime.free_gib(device)
    way = "dequantised once" if fits else "dequantised for each product"
    whole = Products(fits, False, f"4-bit weights, {way}: {needed:.1f} GiB {'fit' if fits else 'do not fit'}")
    if not is_few or device.type != "cuda":
        return whole
    fused_s = _block_s(backbone, cache_weights=False, fused=True)
    whole_s = _block_s(backbone, cache_weights=fits, fused=False)
    times = f"{1e6 * fused_s:.0f} us a block as they are, {1e6 * whole_s:.0f} us dequantised"
    if fused_s < whole_s:
        return Products(False, True, f"4-bit weights, multiplied as they are: {times}")
    return Products(whole.cache_weights, False, f"{whole.why}; {times}")


@torch.inference_mode()
def _block_s(backbone: Any, *, cache_weights: bool, fused: bool) -> float:
    """Return the seconds of the first block's products with one row, without the host's part in them."""
    layer, weight = backbone.h[0], backbone.word_embeddings.weight
    parts = []
    for module in linears_of(layer).values():
        base = getattr(module, "base_layer", module)
        linear = FrozenLinear(base, ops_for(weight.device), weight.dtype, fp8=False, cache_weights=cache_weights, fused=fused)
        parts.append((linear, torch.randn(1, base.in_features, dtype=weight.dtype, device=weight.device)))

    def step() -> None:
        for linear, x_1K in parts:
            linear.product(x_1K)

    replay = recorded(step, weight.device).replay
    return runtime.median_s(replay, weight.device, runs=TIMED_RUNS, warmup=0)


def dequantised_gib(model: Any) -> float:
    """Return the GiB that all 4-bit weights of a model take when they are dequantised into its dtype."""
    backbone = backbone_of(model)
    modules = [getattr(m, "base_layer", m) for layer in backbone.h for m in linears_of(layer).values()]
    size = backbone.word_embeddings.weight.element_size()
    return sum(m.in_features * m.out_features * size for m in modules if is_nf4(m)) / 2**30
