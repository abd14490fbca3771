"""Whether the fast path can run a model with every adapter that is loaded, in the precision that was chosen."""

from typing import Any

import torch

from falconer.model.falcon.adapters import adapter_names
from falconer.model.falcon.layout import backbone_of, why_generic
from falconer.model.row_adapters import why_apart


def why_not_fast(model: Any, autocast: torch.dtype | None) -> str:
    """Return why the fast path can't run a model in this precision; "" if it can."""
    reason = why_generic(model)
    if reason:
        return reason
    # Those that are not active count, too: each request of a running batch names its own.
    reason = why_apart(model) if len(adapter_names(model)) > 1 else ""
    if reason:
        return reason
    dtype = backbone_of(model).word_embeddings.weight.dtype
    if autocast not in (None, dtype):
        name, asked = (str(one).removeprefix("torch.") for one in (dtype, autocast))
        return f"it computes in the weights' {name}, not in {asked}"
    return ""
