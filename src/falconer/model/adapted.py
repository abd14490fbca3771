"""What PEFT has put on a linear layer, as the fast path reads it at each pass."""

from falconer.model.bnb import bnb as _bnb  # noqa: F401  before peft

# isort: split
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft.tuners.lora import LoraLayer


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA (Hu et al. 2021, arXiv:2106.09685): its product is `scale * dropout(x) A^T B^T`.

    Args:
        a, b: [R, K] and [N, R]; after `cast`, b is scaled.
        dropout: share that is dropped now; 0 in evaluation.
        source: dtype of the parameters, and of their gradients.
    """

    a: torch.Tensor
    b: torch.Tensor
    scale: float
    dropout: float
    source: torch.dtype

    def cast(self, dtype: torch.dtype) -> "Adapter":
        """Return it in the dtype of the products, its scale multiplied into b."""
        return replace(self, a=self.a.detach().to(dtype), b=(self.b.detach() * self.scale).to(dtype))


def adapter_of(module: Any) -> Adapter | None:
    """Return the LoRA that works on a linear layer now, None where there is none or it is switched off."""
    if not isinstance(module, LoraLayer) or module.disable_adapters:
        return None
    names = [name for name in module.active_adapters if name in module.lora_A]
    if not names:
        return None
    name = names[0]
    dropout = module.lora_dropout[name]
    first: Any = module.lora_A[name]
    second: Any = module.lora_B[name]
    share = float(dropout.p) if isinstance(dropout, torch.nn.Dropout) and dropout.training else 0.0
    return Adapter(first.weight, second.weight, float(module.scaling[name]), share, first.weight.dtype)


def why_not_plain(module: Any) -> str:
    """Return what about a layer's adapter the fast path does not know; "" if it knows everything."""
    if not isinstance(module, LoraLayer):
        return ""
    names = [name for name in module.active_adapters if name in module.lora_A]
    if len(names) > 1:
        return f"{len(names)} adapters are active at once"
    if module.merged:
        return "the adapter is merged into the base"
    if any(name in module.lora_variant for name in names) or any(module.lora_bias.get(name) for name in names):
        return "the adapter is not a plain LoRA"
    return ""
