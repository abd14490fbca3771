"""The layers that a LoRA adapts: what `lora.targets` may name, and what PEFT makes of it."""

from falconer.model.bnb import bnb as _bnb  # noqa: F401  before peft

# isort: split
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

# Values of `lora.targets` other than layer names, and what PEFT calls them.
WORDS = MappingProxyType({"auto": None, "all-linear": "all-linear"})


@contextmanager
def quiet_about_layers() -> Iterator[None]:
    """Ignore PEFT's warnings on a tied head or embedding, and on `Conv1D` layers.

    Neither is a problem: a tied head with an adapter is the embedding's weight plus the adapter in training, evaluation
    and in the saved folder, and PEFT sets the option for each type of layer.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", r"Model has `tie_word_embeddings=True` and a tied layer is part of the adapter"
        )
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to")
        # On layers that others of this type have; and on missing tensors, which `check_tensors` refuses.
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys did|Found missing adapter keys")
        yield


def layer_paths(model: Any) -> list[str]:
    """Return the paths of the linear layers and of the token embedding."""
    embedding = model.get_input_embeddings()
    return [path for path, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D)) or m is embedding]


def beside_text(model: Any) -> list[str] | None:
    """Return the paths of image and audio layers, which text never reaches; None in most models."""
    if model.config.get_text_config(decoder=True) is model.config:
        return None
    text = {id(module) for module in (*model.get_decoder().modules(), model.get_output_embeddings())}
    modules = dict(model.named_modules())
    return [path for path in layer_paths(model) if id(modules[path]) not in text] or None


def allowed(model: Any, dropout: float) -> str:
    """Return the allowed values of `lora.targets`, found by trying PEFT on a copy of the model without weights."""

    def copy() -> Any:
        with torch.device("meta"):
            return type(model)(model.config)

    def is_taken(targets: list[str] | str | None) -> bool:
        config = LoraConfig(target_modules=targets, lora_dropout=dropout, task_type="CAUSAL_LM")
        try:
            with torch.device("meta"), quiet_about_layers():
                get_peft_model(copy(), config)
        except ValueError:
            return False
        return True

    # A copy, since PEFT has already wrapped some layers when it raises an error.
    names = sorted({path.rpartition(".")[2] for path in layer_paths(copy())})
    layers = ", ".join(name for name in names if is_taken([name]))
    return "; or ".join([layers, *(word for word, meaning in WORDS.items() if is_taken(meaning))])
