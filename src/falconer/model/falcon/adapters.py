"""The LoRA adapters of a PEFT model: reading them for the fast path, and finding those it does not support."""

from falconer.model.bnb import bnb as _bnb  # noqa: F401  before peft

# isort: split
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import PeftModel, PeftType
from peft.tuners.lora import LoraLayer, ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA (Hu et al. 2021, arXiv:2106.09685): it adds `scale * dropout(x) A^T B^T`.

    Args:
        a, b: [R, K] and [N, R]; after `cast`, b is scaled.
        dropout: the current dropout probability; 0 in evaluation.
        source: dtype of the parameters, and of their gradients.
    """

    a: torch.Tensor
    b: torch.Tensor
    scale: float
    dropout: float
    source: torch.dtype

    def cast(self, dtype: torch.dtype) -> "Adapter":
        """Return the adapter in the dtype of the matmuls, with its scale multiplied into b."""
        return replace(self, a=self.a.detach().to(dtype), b=(self.b.detach() * self.scale).to(dtype))


def adapter_of(module: Any) -> Adapter | None:
    """Return the active LoRA of a linear layer, None if there is none or it is disabled."""
    if not isinstance(module, LoraLayer) or module.disable_adapters:
        return None
    names = [name for name in module.active_adapters if name in module.lora_A]
    if not names:
        return None
    return named_adapter(module, names[0])


def named_adapter(module: Any, name: str) -> Adapter:
    """Return one of the LoRAs of a layer that has it."""
    dropout = module.lora_dropout[name]
    first: Any = module.lora_A[name]
    second: Any = module.lora_B[name]
    share = float(dropout.p) if isinstance(dropout, torch.nn.Dropout) and dropout.training else 0.0
    return Adapter(first.weight, second.weight, float(module.scaling[name]), share, first.weight.dtype)


@dataclass(frozen=True, slots=True)
class Stacked:
    """The LoRAs of a linear layer, one below the other, so that one matmul computes those of all rows of a batch.

    Args:
        a, b: [R, K] and [N, R], where R is the sum of their ranks; in the dtype of the matmuls, b is scaled.
        owners: which adapter each of the R belongs to, counted from 1.
    """

    a: torch.Tensor
    b: torch.Tensor
    owners: tuple[int, ...]


def stacked_adapters(module: Any, names: Sequence[str], dtype: torch.dtype) -> Stacked | None:
    """Return the named LoRAs of a linear layer, whichever is active; None if it has none of them."""
    found = [
        (number, named_adapter(module, name).cast(dtype))
        for number, name in enumerate(names, 1) if isinstance(module, LoraLayer) and name in module.lora_A
    ]  # fmt: skip
    if not found:
        return None
    a_RK, b_NR = torch.cat([one.a for _, one in found]), torch.cat([one.b for _, one in found], dim=1)
    return Stacked(a_RK, b_NR, tuple(number for number, one in found for _ in range(len(one.a))))


def adapter_names(model: Any) -> tuple[str, ...]:
    """Return the names of the adapters that are loaded on a base, active or not."""
    return tuple(model.peft_config) if isinstance(model, PeftModel) else ()


def adapter_states(model: Any) -> list[tuple[object, ...]]:
    """Return which adapters work on each layer, and how: what changes when one is switched, merged or added."""
    return [
        (
            tuple(module.active_adapters), tuple(module.merged_adapters), module.disable_adapters,
            tuple(getattr(module, "scaling", {}).items()),
        )
        for module in model.modules() if isinstance(module, BaseTunerLayer)
    ]  # fmt: skip


def why_not_plain(module: Any) -> str:
    """Return why the fast path does not support a layer's adapter; "" if it does."""
    if not _is_adapted(module):
        return ""
    if not isinstance(module, LoraLayer) or isinstance(module, ParamWrapper):
        return f"the adapter is not a plain LoRA but {type(module).__module__}.{type(module).__name__}"
    names = [name for name in module.active_adapters if name in module.lora_A]
    if len(names) > 1:
        return f"{len(names)} adapters are active at once"
    if module.merged:
        return "the adapter is merged into the base"
    if any(name in module.lora_variant for name in names) or any(module.lora_bias.get(name) for name in names):
        return "the adapter is not a plain LoRA"
    return ""


def why_not_only(model: Any, linears: Iterable[nn.Module]) -> str:
    """Return what is adapted or trained other than the layers `linears`; "" if nothing is.

    Args:
        model: a PEFT model, or the model inside it.
        linears: with their PEFT wrappers.
    """
    if isinstance(model, PeftModel):
        kinds = {PeftType(model.peft_config[name].peft_type or "").value for name in model.active_adapters}
        if kinds - {"LORA"}:
            return f"the adapter is of PEFT type {', '.join(sorted(kinds))}"
    inside = {id(module): module for module in linears}
    for name, module in model.named_modules():
        if _is_adapted(module) and id(module) not in inside:
            return f"there is an adapter on {_short(name)}"
    known = {id(parameter) for module in inside.values() for parameter in module.parameters()}
    trained = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in known]
    return f"{_short(trained[0])} is trained" if trained else ""


def has_learned_prompt(model: Any) -> bool:
    """Return whether a model's adapter is a learned prompt, which only PEFT's forward pass adds to the text."""
    return isinstance(model, PeftModel) and bool(model.active_peft_config.is_prompt_learning)


def _is_adapted(module: Any) -> bool:
    return isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))


def _short(name: str) -> str:
    return name.removeprefix("base_model.model.")
