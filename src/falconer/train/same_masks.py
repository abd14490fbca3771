"""Attention in a pass that is being recorded: the masks that it had in the pass before.

While a CUDA graph is recorded no value can be looked at, so transformers 5.17 writes out every mask and repeats
key/value heads for it: no flash kernel would run. The pass before shows which of the masks are needed, such as that of
a window that is shorter than the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True, slots=True)
class Masked:
    """How attention was called: with a mask, causal, with so many key/value heads, each for several queries."""

    has_mask: bool
    is_causal: bool
    num_heads: int
    enable_gqa: bool


class NoteMasks(TorchFunctionMode):
    """Note how attention is called, one call after the other."""

    def __init__(self, noted: list[Masked]) -> None:
        super().__init__()
        self._noted = noted

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            causal, gqa = (bool(named.get(name, False)) for name in ("is_causal", "enable_gqa"))
            self._noted.append(Masked(named.get("attn_mask") is not None, causal, args[1].shape[1], gqa))
        return func(*args, **named)


class SameMasks(TorchFunctionMode):
    """Call attention without a mask where it was called without one before, and without repeating heads for it.

    Raises:
        RuntimeError: when attention is called more often than before.
    """

    def __init__(self, noted: Sequence[Masked]) -> None:
        super().__init__()
        self._noted = iter(noted)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if func is not F.scaled_dot_product_attention:
            return func(*args, **named)
        before = next(self._noted, None)
        if before is None:
            raise RuntimeError("attention is called more often than before")
        if before.has_mask or named.get("attn_mask") is None:
            return func(*args, **named)
        query, *repeated = args
        # A copy, so that the repeated ones are not stored for the backward pass.
        heads = [one[:, :: one.shape[1] // before.num_heads].contiguous() for one in repeated]
        named |= {"attn_mask": None, "is_causal": before.is_causal, "enable_gqa": before.enable_gqa}
        return func(query, *heads, **named)
