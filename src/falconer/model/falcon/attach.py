"""The fast path in place of a model's own forward pass, and out of it again."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from falconer.kernels import reference
from falconer.model.falcon.layout import backbone_of, why_generic
from falconer.model.falcon.train_pass import FastPath, Memory


def enable(model: Any, *, fp8: bool = False, memory: Memory = "fast", cache_weights: bool = False) -> FastPath:
    """Let Falcon-7B's own pass stand in for the forward pass of a model's backbone; `disable` takes it back.

    Args:
        model: with or without adapter; `why_generic` must have nothing against it.
        fp8, memory: see `FastPath`.
        hold: its `cache_weights`.

    Raises:
        ValueError: the model is of another kind.
    """
    reason = why_generic(model)
    if reason:
        raise ValueError(f"The fast path can't run this model: {reason}.")
    disable(model)
    backbone = backbone_of(model)
    path = FastPath(
        backbone, ops_for(backbone.word_embeddings.weight.device), fp8=fp8, memory=memory, cache_weights=cache_weights
    )
    backbone.forward = path.forward
    return path


def ops_for(device: torch.device) -> ModuleType:
    """Return the operations for a device: kernels, or plain torch."""
    if device.type != "cuda":
        return reference
    # Triton is there only where CUDA is.
    from falconer.kernels import fused

    return fused


def disable(model: Any) -> None:
    """Give a model its own forward pass back; nothing where it has it."""
    backbone_of(model).__dict__.pop("forward", None)


@contextmanager
def attached(model: Any, path: FastPath | None) -> Iterator[None]:
    """Let a fast path, or for None the model's own forward pass, be taken for a while; what was before comes back."""
    backbone = backbone_of(model)
    before = backbone.__dict__.pop("forward", None)
    if path is not None:
        backbone.forward = path.forward
    try:
        yield
    finally:
        backbone.__dict__.pop("forward", None)
        if before is not None:
            backbone.forward = before


def fast_path_of(model: Any) -> FastPath | None:
    """Return the pass that stands in for a model's own, None on the generic path."""
    path = getattr(backbone_of(model).__dict__.get("forward"), "__self__", None)
    return path if isinstance(path, FastPath) else None
