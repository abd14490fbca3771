"""Reading a saved LoRA adapter for merging: which weights of the base it changes, and how.

Shapes: I in features, O out features, R rank, V vocabulary, D hidden.
"""

from falconer.model.bnb import bnb as _bnb  # noqa: F401  before peft

# isort: split
import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import Conv1D

from falconer.errors import FalconerError
from falconer.files.json_record import is_missing, read_object
from falconer.model.lora import WEIGHTS
from falconer.model.patterns import check_patterns

CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."
# What can be worked out from the file alone, or has no meaning once training is over.
_UNDERSTOOD = frozenset({
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "fan_in_fan_out", "modules_to_save",
    "bias", "lora_bias", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "base_model_name_or_path", "revision", "task_type", "peft_type", "peft_version", "inference_mode", "auto_mapping",
    "megatron_core", "qalora_group_size", "loftq_config", "eva_config",
})  # fmt: skip
# Ways to begin that leave the base as it is. The others (PiSSA, OLoRA, CorDA, LoftQ ...) change it before training.
_BEGINNINGS = (True, False, "gaussian", "orthogonal", "eva")
_PARTS = MappingProxyType({
    ".lora_A.weight": "a", ".lora_B.weight": "b", ".lora_embedding_A": "a", ".lora_embedding_B": "b",
    ".lora_magnitude_vector.weight": "magnitude", ".lora_magnitude_vector": "magnitude", ".lora_B.bias": "bias",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lora:
    """What is added to one weight.

    Args:
        a, b: [R, I] and [O, R]; of an embedding [R, V] and [D, R].
        scaling: what their product is multiplied with.
        transposed: the base keeps this weight as [I, O] (GPT-2's Conv1D) or [V, D] (an embedding).
        magnitude: DoRA's, [O]; None for plain LoRA.
    """

    a: torch.Tensor
    b: torch.Tensor
    scaling: float
    transposed: bool
    magnitude: torch.Tensor | None = None

    def merged(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight with the adapter in it, in fp32.

        DoRA (arXiv:2402.09353, eq. 5) gives each output's row the length that was learned.
        """
        device = weight.device
        product_OI = (self.b.to(device).float() @ self.a.to(device).float()) * self.scaling
        weight_OI = weight.float().T if self.transposed else weight.float()
        sum_OI = weight_OI + product_OI
        if self.magnitude is not None:
            lengths_O = torch.linalg.norm(sum_OI, dim=1)
            sum_OI = (self.magnitude.to(device).float().view(-1) / lengths_O).unsqueeze(1) * sum_OI
        return sum_OI.T if self.transposed else sum_OI


@dataclass(frozen=True, slots=True)
class Adapter:
    """A saved adapter, by the names of the base's parameters.

    Args:
        loras: the weights that LoRA is added to.
        bias_changes: what is added to a bias (`lora_bias`).
        replaced: parameters that were trained and saved whole (`modules_to_save`, `bias`).
        base_replaced: weights of the base that were saved beside the adapter, because the vocabulary grew.
        alpha: `lora_alpha` of its configuration.
    """

    loras: dict[str, Lora]
    bias_changes: dict[str, torch.Tensor]
    replaced: dict[str, torch.Tensor]
    base_replaced: dict[str, torch.Tensor]
    alpha: float

    @property
    def changed(self) -> set[str]:
        """The names of all parameters that come out otherwise than in the base."""
        return {*self.loras, *self.bias_changes, *self.replaced, *self.base_replaced}


def read_adapter(folder: Path, skeleton: nn.Module) -> Adapter:
    """Read a PEFT LoRA adapter.

    Args:
        skeleton: the base model, without weights.

    Raises:
        FalconerError: no adapter, a damaged one, a kind that can't be written into weights (named), or layers that the
            base does not have.
    """
    config = _read_config(folder)
    check_patterns(folder / CONFIG, config, [name for name, _ in skeleton.named_modules()])
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise FalconerError(
            f"'{folder / WEIGHTS}' can't be read: {str(error).splitlines()[0]}.", "Use another checkpoint."
        ) from error
    parts: dict[str, dict[str, torch.Tensor]] = {}
    whole: dict[str, torch.Tensor] = {}
    for key, tensor in tensors.items():
        name = key.removeprefix(_PREFIX)
        ending = next((ending for ending in _PARTS if name.endswith(ending)), None)
        if ending is not None:
            parts.setdefault(name.removesuffix(ending), {})[_PARTS[ending]] = tensor
        else:
            whole[name.replace(".base_layer.", ".")] = tensor
    modules = dict(skeleton.named_modules())
    loras = {f"{path}.weight": _lora(path, found, config, modules.get(path)) for path, found in parts.items()}
    biases = {
        f"{path}.bias": found["bias"].float() * loras[f"{path}.weight"].scaling
        for path, found in parts.items()
        if "bias" in found
    }
    saved = tuple(config.get("modules_to_save") or ())
    replaced = {name: t for name, t in whole.items() if _is_saved(name, saved) or name.endswith(".bias")}
    beside = {name: t for name, t in whole.items() if name not in replaced}
    adapter = Adapter(loras, biases, replaced, beside, float(config["lora_alpha"]))
    _check_fits(adapter, skeleton)
    return adapter


def _read_config(folder: Path) -> dict[str, Any]:
    if is_missing(folder / CONFIG):
        raise FalconerError(f"'{folder}' contains no adapter ({CONFIG} is missing).", "Check the path.")
    config = read_object(folder / CONFIG, "Use another checkpoint.")
    if config.get("peft_type") != "LORA":
        kind = config.get("peft_type")
        raise FalconerError(
            f"'{folder}' contains an adapter of type {kind}; only LORA can be merged here.", "Train a LoRA."
        )
    plain = dataclasses.asdict(LoraConfig())
    for key, value in sorted(config.items()):
        if key in _UNDERSTOOD or not value or value == plain.get(key):
            continue
        if key == "init_lora_weights" and value in _BEGINNINGS:
            continue
        raise FalconerError(
            f"The adapter in '{folder}' was made with {key}={json.dumps(value)}, which can't be merged here.",
            "Merge it with PEFT's merge_and_unload, or train an adapter without it.",
        )
    config = {"lora_alpha": plain["lora_alpha"]} | config
    wrong = [key for key, is_right in _KINDS.items() if not is_right(config.get(key))]
    if wrong:
        raise FalconerError(
            f"'{folder / CONFIG}' is damaged: {wrong[0]} is {json.dumps(config[wrong[0]])}.", "Use another checkpoint."
        )
    return config


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


# Of the fields that are used here: whether a value is one that PEFT writes.
_KINDS = MappingProxyType({
    "lora_alpha": _is_number,
    "alpha_pattern": lambda found: not found or (isinstance(found, dict) and all(map(_is_number, found.values()))),
    "modules_to_save": lambda found: not found or (
        isinstance(found, list) and all(isinstance(name, str) for name in found)
    ),
})  # fmt: skip


def _lora(path: str, found: dict[str, torch.Tensor], config: dict[str, Any], module: nn.Module | None) -> Lora:
    if module is None:
        raise FalconerError(
            f"The adapter changes {path}, which its base model does not have.", "Give the base that it was trained on."
        )
    if not isinstance(module, (nn.Linear, nn.Embedding, Conv1D)):
        raise FalconerError(
            f"The adapter changes {path}, a layer of type {type(module).__name__}; only linear layers and embeddings "
            "can be merged.",
            "Merge it with PEFT's merge_and_unload.",
        )
    if not {"a", "b"} <= set(found):
        raise FalconerError(
            f"The adapter is incomplete: one of the two LoRA matrices of {path} is missing.", "Use another checkpoint."
        )
    shapes = [tuple(found[name].shape) for name in ("a", "b")]
    if any(len(shape) != 2 or 0 in shape for shape in shapes) or shapes[0][0] != shapes[1][1]:
        raise FalconerError(
            f"The adapter is damaged: the LoRA matrices of {path} have the shapes {shapes[0]} and {shapes[1]}.",
            "Use another checkpoint.",
        )
    rank = found["a"].shape[0]
    # PEFT's own rule of which pattern a layer belongs to.
    patterns = config.get("alpha_pattern") or {}
    alpha = float(patterns.get(get_pattern_key(list(patterns), path), config["lora_alpha"]))
    scaling = alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
    transposed = isinstance(module, (nn.Embedding, Conv1D))
    return Lora(found["a"], found["b"], scaling, transposed, found.get("magnitude"))


def _is_saved(name: str, saved: tuple[str, ...]) -> bool:
    path = f".{name.rpartition('.')[0]}."
    return any(f".{module}." in path for module in saved)


def _check_fits(adapter: Adapter, skeleton: nn.Module) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
    unknown = sorted(adapter.changed - set(shapes))
    if unknown:
        raise FalconerError(
            f"The adapter changes {unknown[0]}, which its base model does not have.",
            "Give the base that it was trained on.",
        )
    given = {name: tuple(tensor.shape) for name, tensor in (adapter.replaced | adapter.base_replaced).items()}
    given |= {name: tuple(tensor.shape) for name, tensor in adapter.bias_changes.items()}
    for name, lora in adapter.loras.items():
        made = (lora.b.shape[0], lora.a.shape[1])
        given[name] = made[::-1] if lora.transposed else made
    for name, shape in given.items():
        if shape != shapes[name]:
            raise FalconerError(
                f"The adapter was made for a {name} of shape {shape}; the base model's has {shapes[name]}.",
                "Give the base that it was trained on (with the same vocabulary, if that was made larger).",
            )
