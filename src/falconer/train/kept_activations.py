"""What a training step with falconer's own layers stores for its backward pass, counted in a pass without memory.

With fake tensors on the meta device every operation only knows shapes, so the pass of any architecture takes a second,
and autograd says what it stores. Which layers are replaced is assumed from their structure: their values are not there.

Shapes: B batch, N heads, T tokens, H head size.
"""

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from falconer.model.layers.replace import assume_layers, restore_layers, why_not_replaced

_TOKENS = 64


def kept_bytes(model: Any) -> float | None:
    """Return the bytes that are stored for each token, in bf16; None where own layers can't be used or counted.

    Args:
        model: with its adapter, on the meta device; its weights become bf16.
    """
    if why_not_replaced(model, None):
        return None
    base = model.get_base_model().to(torch.bfloat16)
    text = base.config.get_text_config(decoder=True)
    num_heads = getattr(text, "num_key_value_heads", None) or getattr(text, "num_attention_heads", None) or 1
    sizes: dict[int, int] = {}
    # What is alive keeps its address.
    alive: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        # The mask of a dropout is a seed on a GPU.
        if tensor.is_floating_point():
            alive.append(tensor)
            storage = tensor.untyped_storage()
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    # By fake tensors transformers knows that no value can be looked at.
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    weights = [fake.from_tensor(parameter) for parameter in model.parameters()]
    assume_layers(model.train())
    try:
        with fake, saved_tensors_hooks(note, lambda tensor: tensor):
            ids = torch.zeros(1, _TOKENS, dtype=torch.int64, device="meta")
            with _FusedAttention(num_heads):
                base.base_model(input_ids=ids, use_cache=False)
    except (RuntimeError, NotImplementedError, TypeError, ValueError):  # whatever looks at values all the same
        return None
    finally:
        restore_layers(model)
    for weight in weights:
        sizes.pop(weight.untyped_storage()._cdata, None)
    return sum(sizes.values()) / _TOKENS


class _FusedAttention(TorchFunctionMode):
    """Attention stores what a fused kernel stores, also where no GPU is there.

    Args:
        num_heads: key/value heads, which the kernel reads as they are; without one they are repeated.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self._num_heads = num_heads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _Attention.apply(*args[:3], self._num_heads)
        return func(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, num_heads: int
    ) -> torch.Tensor:  # fmt: skip
        # As kernels give it out: the heads of a token lie side by side.
        out = torch.empty_like(query.transpose(1, 2).contiguous()).transpose(1, 2)
        sums = query.new_empty(query.shape[:3], dtype=torch.float32)
        if key.shape[1] > num_heads:
            key, value = (torch.empty_like(one[:, :num_heads]) for one in (key, value))
        ctx.save_for_backward(query, key, value, out, sums)
        return out
