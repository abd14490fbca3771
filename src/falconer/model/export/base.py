"""Opening the base model of an adapter for merging: its files, its configuration, and its parameter names."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, rename_source_key

from falconer.errors import FalconerError
from falconer.model.export.weights import Weights
from falconer.model.limits import check_numbers
from falconer.model.tokenizer import explain_missing, resolve

_FILES = ("*.json", "*.safetensors", "tokenizer.model", "vocab.txt", "merges.txt", "*.jinja", "README.md")


@dataclass(frozen=True, slots=True)
class Base:
    """A base model that is read tensor by tensor.

    Args:
        name: as it was given.
        folder: where its files are.
        skeleton: the `transformers` model on the meta device: names and shapes, no memory.
        weights: its files.
        stored: what the files call each parameter, by its name in the model; what that does not know keeps its own.
        tied: parameters that share another one's weight, and that one's name.
    """

    name: str
    folder: Path
    config: PreTrainedConfig
    generation: GenerationConfig
    skeleton: Any
    weights: Weights
    stored: dict[str, str]
    tied: dict[str, str]

    def read(self, name: str) -> torch.Tensor:
        """Return a parameter by the name that the model has for it."""
        return self.weights.read(self.stored[name])

    def saved_name(self, name: str) -> str:
        """Return what `save_pretrained` calls a parameter in its files."""
        if name not in self.skeleton.state_dict():
            return name
        for step in reversed(get_model_conversion_mapping(self.skeleton, add_legacy=False)):
            name, _ = step.reverse_transform().rename_source_key(name)
        return name

    @property
    def head(self) -> str:
        """The name of the weight that makes logits of hidden states."""
        head = self.skeleton.get_output_embeddings()
        return next(f"{path}.weight" for path, module in self.skeleton.named_modules() if module is head)


def open_base(name: str, revision: str | None = None) -> Base:
    """Find a base model, in a folder or on the hub (downloading what is missing), and list its tensors.

    Raises:
        FalconerError: there is no such model, it has no safetensors, or parameters are missing.
    """
    folder = Path(resolve(name))
    with explain_missing(name, revision):
        if not os.path.isdir(folder):
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(_FILES)))
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        check_numbers(config, name)
        with torch.device("meta"):
            skeleton: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        generation = skeleton.generation_config
        if (folder / "generation_config.json").is_file():
            generation = GenerationConfig.from_pretrained(folder)
    if getattr(config, "quantization_config", None):
        raise FalconerError(
            f"The weights of '{name}' are stored quantised.",
            "Give the model that they were made from, in bf16 or fp16.",
        )
    weights = Weights(folder)
    stored = _names(weights, skeleton)
    tied = _tied(weights, stored, skeleton)
    missing = sorted(set(dict(skeleton.named_parameters())) - set(stored) - set(tied))
    if missing:
        raise FalconerError(
            f"The weights of '{name}' are incomplete: {len(missing)} tensors are missing, including {missing[0]}.",
            "Download or save the model again; a model with other tensor names in its files can't be merged here.",
        )
    return Base(name, folder, config, generation, skeleton, weights, stored, tied)


def _names(weights: Weights, skeleton: Any) -> dict[str, str]:
    """Return {parameter: its name in the files}, found as `from_pretrained` finds it."""
    steps = get_model_conversion_mapping(skeleton)
    renamings: list[Any] = [step for step in steps if not isinstance(step, WeightConverter)]
    converters = [step for step in steps if isinstance(step, WeightConverter)]
    known = skeleton.state_dict()
    found = {}
    for name in weights.stored:
        renamed, converter = rename_source_key(name, renamings, converters, skeleton.base_model_prefix, known)
        if converter is not None or (renamed not in known and name in known):
            renamed = name
        found[renamed] = name
    return found


def _tied(weights: Weights, stored: dict[str, str], skeleton: Any) -> dict[str, str]:
    """Return {parameter: the one whose weight it shares}; takes the shared ones out of `stored`.

    As in `transformers`, a model whose configuration says "tied" and whose files hold two different weights is not.
    """
    tied = {}
    for target, source in skeleton.all_tied_weights_keys.items():
        if target in stored and source in stored:
            if not torch.equal(weights.read(stored[target]), weights.read(stored[source])):
                continue
            del stored[target]
        elif target in stored:
            stored[source] = stored.pop(target)
        tied[target] = source
    return tied
