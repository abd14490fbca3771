"""The upper bound for a benchmark: the time of the matmuls alone, measured in the same process."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F
from transformers import FalconConfig

from falconer import runtime
from falconer.model.falcon.layout import layout_of


def linear_ceiling(shape: Mapping[str, Any], tokens: int, device: torch.device, dtype: torch.dtype) -> float:
    """Return the tokens/s of all linear layers except the head, forward and input gradient, and nothing else.

    Args:
        shape: arguments of `FalconConfig`.
    """
    config = FalconConfig(**shape)
    hidden, inner, qkv = (
        config.hidden_size,
        config.ffn_hidden_size or 4 * config.hidden_size,
        layout_of(config).heads.width,
    )
    total = 0.0
    for inputs, outputs in ((hidden, qkv), (hidden, hidden), (hidden, inner), (inner, hidden)):
        weight = torch.randn(outputs, inputs, device=device, dtype=dtype)
        x = torch.randn(tokens, inputs, device=device, dtype=dtype)
        grad = torch.randn(tokens, outputs, device=device, dtype=dtype)
        total += runtime.median_s(lambda x=x, weight=weight: F.linear(x, weight), device, runs=10, warmup=3)  # type: ignore[misc]
        total += runtime.median_s(lambda grad=grad, weight=weight: grad @ weight, device, runs=10, warmup=3)  # type: ignore[misc]
    return tokens / (config.num_hidden_layers * total)
