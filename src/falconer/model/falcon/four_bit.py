"""The fast path as evaluation and chat use it: which models it runs, and how 4-bit weights are multiplied there.

4-bit weights have three ways: unpacked once and kept, unpacked for every product, or, for few rows, multiplied as they
are. Many rows take the first where it fits. For few rows a GPU is asked: one block is timed in each way.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from falconer import runtime
from falconer.kernels.formats import NF4_ROWS
from falconer.model.falcon.attach import fast_path_of, ops_for
from falconer.model.falcon.frozen_linear import FrozenLinear, is_nf4
from falconer.model.falcon.layout import backbone_of, linears_of, why_generic
from falconer.model.falcon.train_pass import FastPath
from falconer.model.generate.slots import recorded

# Share of free memory that unpacked weights may take: caches, logits and a pass's values come on top.
MOST_OF_FREE = {"cuda": 0.6, "cpu": 0.25}
TIMED_RUNS = 20


@dataclass(frozen=True, slots=True)
class Products:
    """How 4-bit weights are multiplied, and why.

    Args:
        hold: unpacked once and kept.
        fused: up to NF4_ROWS rows are multiplied with the weights as they are.
    """

    hold: bool
    fused: bool
    why: str


_chosen: "WeakKeyDictionary[Any, dict[bool, Products]]" = WeakKeyDictionary()


def why_not_falcon(model: Any, autocast: torch.dtype | None, num_tokens: int = 0) -> str:
    """Return why the fast path can't generate or rank with a model; "" if it can.

    Args:
        autocast: the arithmetic that is asked for, None for the weights' own.
        num_tokens: of the longest sequence.
    """
    reason = why_generic(model)
    if reason:
        return reason
    backbone = backbone_of(model)
    dtype, most = backbone.word_embeddings.weight.dtype, backbone.config.max_position_embeddings
    if autocast not in (None, dtype):
        return f"it computes in the weights' {_name(dtype)}, not in {_name(autocast)}"
    if num_tokens > most:
        return f"it knows {most} positions, and {num_tokens} are needed"
    return ""


def inference_path(model: Any, num_rows: int) -> FastPath:
    """Return the fast path for passes without gradients: the one that is enabled, or a new one.

    Args:
        model: `why_not_falcon` has nothing against it.
        num_rows: tokens of the usual pass.
    """
    path = fast_path_of(model)
    chosen = choose_products(model, num_rows)
    if path is not None and not path.fp8 and not chosen.fused:
        return path
    backbone = backbone_of(model)
    ops = ops_for(backbone.word_embeddings.weight.device)
    return FastPath(backbone, ops, fp8=False, memory="fast", cache_weights=chosen.hold, fused=chosen.fused)


@contextmanager
def on_fast_path(model: Any, autocast: torch.dtype | None) -> Iterator[None]:
    """Run a model's passes without gradients on the fast path where it can be; what was before comes back."""
    if why_not_falcon(model, autocast):
        yield
        return
    backbone = backbone_of(model)
    before = backbone.__dict__.get("forward")
    backbone.forward = inference_path(model, num_rows=NF4_ROWS + 1).forward
    try:
        yield
    finally:
        del backbone.forward
        if before is not None:
            backbone.forward = before


def choose_products(model: Any, num_rows: int) -> Products:
    """Choose how 4-bit weights are multiplied with so many rows; measured once for a model."""
    backbone = backbone_of(model)
    is_few = num_rows <= NF4_ROWS
    known = _chosen.setdefault(backbone, {})
    if is_few not in known:
        known[is_few] = _choose_products(model, backbone, is_few)
    return known[is_few]


def _choose_products(model: Any, backbone: Any, is_few: bool) -> Products:
    needed, device = unpacked_gib(model), backbone.word_embeddings.weight.device
    if needed == 0:
        return Products(False, False, "whole weights")
    fits = needed < MOST_OF_FREE[device.type] * runtime.free_gib(device)
    way = "unpacked once" if fits else "unpacked for each product"
    kept = Products(fits, False, f"4-bit weights, {way}: {needed:.1f} GiB {'fit' if fits else 'do not fit'}")
    if not is_few or device.type != "cuda":
        return kept
    fused_s = _block_s(backbone, hold=False, fused=True)
    unpacked_s = _block_s(backbone, hold=fits, fused=False)
    times = f"{1e6 * fused_s:.0f} us a block as they are, {1e6 * unpacked_s:.0f} us unpacked"
    if fused_s < unpacked_s:
        return Products(False, True, f"4-bit weights, multiplied as they are: {times}")
    return Products(kept.hold, False, f"{kept.why}; {times}")


@torch.inference_mode()
def _block_s(backbone: Any, *, hold: bool, fused: bool) -> float:
    """Return the seconds of the first block's products with one row, without the host's part in them."""
    layer, weight = backbone.h[0], backbone.word_embeddings.weight
    parts = []
    for module in linears_of(layer).values():
        base = getattr(module, "base_layer", module)
        linear = FrozenLinear(base, ops_for(weight.device), weight.dtype, fp8=False, cache_weights=hold, fused=fused)
        parts.append((linear, torch.randn(1, base.in_features, dtype=weight.dtype, device=weight.device)))

    def step() -> None:
        for linear, x_1K in parts:
            linear.product(x_1K)

    replay = recorded(step, weight.device).replay
    return runtime.median_s(replay, weight.device, runs=TIMED_RUNS, warmup=0)


def _name(dtype: torch.dtype | None) -> str:
    return str(dtype).removeprefix("torch.")


def unpacked_gib(model: Any) -> float:
    """Return the GiB that all 4-bit weights of a model take when they are unpacked into its dtype."""
    backbone = backbone_of(model)
    modules = [getattr(m, "base_layer", m) for layer in backbone.h for m in linears_of(layer).values()]
    size = backbone.word_embeddings.weight.element_size()
    return sum(m.in_features * m.out_features * size for m in modules if is_nf4(m)) / 2**30
