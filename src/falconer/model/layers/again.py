"""Tensors that are computed again in the backward pass instead of being stored.

A norm's output is its input times something small, and a gated MLP's inner product is made from two tensors that are
stored anyway. Who gives out such a tensor attaches how it is made; who would store it stores what it is made from.
"""

from collections.abc import Callable
from typing import Any

import torch


class Again:
    """How a tensor is computed again.

    Args:
        compute: makes it from `tensors`; it must hold none itself, since a pass with checkpoints throws them away.
    """

    def __init__(self, compute: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> None:
        self.compute, self.tensors = compute, tensors
        self.shared = Shared()


class Shared:
    """What several layers with one input compute only once: the last one to need it gives it back."""

    def __init__(self) -> None:
        self._waiting = 0
        self._value: torch.Tensor | None = None

    def wait(self) -> None:
        """Note that one more layer will ask."""
        self._waiting += 1

    def take(self, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return the tensor, computed if no other layer has done so."""
        value = compute() if self._value is None else self._value
        self._waiting -= 1
        self._value = value if self._waiting > 0 else None
        return value


def attach(tensor: torch.Tensor, again: Again) -> torch.Tensor:
    """Attach to a tensor how it is computed again."""
    of: Any = tensor
    of.again, of.made_at = again, tensor._version
    return tensor


def again_of(tensor: torch.Tensor) -> Again | None:
    """Return how a tensor is computed again; None if that is not known, or it was changed in place since."""
    found: Again | None = getattr(tensor, "again", None)
    return found if found is not None and getattr(tensor, "made_at", -1) == tensor._version else None
