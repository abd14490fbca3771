"""Switching a model to the fast path and back to its own forward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from falconer.kernels import reference
from falconer.model.falcon.layout import backbone_of, why_generic
from falconer.model.falcon.train_pass import FastPath, Memory


def enable(model: Any, *, fp8: bool = False, memory: Memory = "fast", cache_weights: bool = False) -> FastPath:
    """Replace the forward pass of a model's backbone with the fast path; `disable` undoes it.

    Args:
        model: with or without adapter; `why_generic` must return "" for it.
        fp8, memory, cache_weights: see `FastPath`.

    Raises:
        ValueError: the fast path does not support the model.
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
    """Return the operations for a device: Triton kernels or plain torch."""
    if device.type != "cuda":
        return reference
    # Triton is only installed with CUDA.
    from falconer.kernels import fused

    return fused


def disable(model: Any) -> None:
    """Restore a model's own forward pass, if it was replaced."""
    backbone_of(model).__dict__.pop("forward", None)


@contextmanager
def attached(model: Any, path: FastPath | None) -> Iterator[None]:
    """Use a fast path (None: the model's own forward pass) inside this context, and restore the previous one."""
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
    """Return the fast path that a model uses, None on the generic path."""
    path = getattr(backbone_of(model).__dict__.get("forward"), "__self__", None)
    return path if isinstance(path, FastPath) else None
