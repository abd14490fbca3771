"""The natural language inference (NLI) model for the C-score, from a local folder."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from falconer.errors import FalconerError
from falconer.files.json_record import read_object
from falconer.model.guards import check_model_folder, no_pickle
from falconer.model.tokenizer import explain_missing

# The value of each label in the C-score (Madotto et al. 2019, arXiv:1905.10033).
VALUES = MappingProxyType({"entailment": 1, "neutral": 0, "contradiction": -1})

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")


@dataclass(frozen=True, slots=True)
class NliModel:
    """A classifier; `values` [num_labels] are the C-score values of its labels."""

    model: Any
    tokenizer: Any
    values: np.ndarray


def label_values(folder: Path) -> np.ndarray:
    """Return the value of each label of a local model, int64 [num_labels]; reads only config.json.

    Raises:
        FalconerError: there is no such folder, it has no safetensors, or its labels are not entailment, neutral and
            contradiction.
    """
    if not os.path.isfile(folder / "config.json") or not list(folder.glob("*.safetensors")):
        raise FalconerError(
            f"evaluate.nli_model: '{folder}' is not a folder with config.json and safetensors weights.",
            "Give the local folder of a sequence classification model trained on NLI data, e.g. DNLI or MNLI.",
        )
    with explain_missing(str(folder), None):
        labels = read_object(folder / "config.json", "Download or save the model again.").get("id2label") or {}
        if not isinstance(labels, dict):
            raise TypeError("id2label is not an object")
        named = {int(index): str(label).lower() for index, label in labels.items()}
    if sorted(named.values()) != sorted(VALUES):
        given = ", ".join(named.values()) or "none"
        raise FalconerError(
            f"evaluate.nli_model: the labels of '{folder}' are {given}.",
            f"They must be {', '.join(VALUES)}: set them in id2label in its config.json.",
        )
    return np.array([VALUES[named[index]] for index in sorted(named)], dtype=np.int64)


def check_nli(folder: Path) -> None:
    """Check that a folder's labels and tokenizer can be used; its weights are not read yet.

    Raises:
        FalconerError: see `label_values`; or the tokenizer can't be read, or a package that it needs is missing.
    """
    label_values(folder)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        # transformers would create an empty tokenizer from config.json, to which every word is unknown.
        raise FalconerError(
            f"evaluate.nli_model: '{folder}' contains no tokenizer.", f"Add one of {', '.join(_TOKENIZER_FILES)}."
        )
    _tokenizer(folder)


def load_nli(folder: Path, device: torch.device) -> NliModel:
    """Load a sequence classifier from safetensors in a local folder.

    Raises:
        FalconerError: see `label_values`; or the model can't be read, or lacks weights.
    """
    values = label_values(folder)
    tokenizer = _tokenizer(folder)
    check_model_folder(folder)
    with no_pickle(), explain_missing(str(folder), None):
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, local_files_only=True, trust_remote_code=False
        )
    model, found = loaded
    if found["missing_keys"]:
        # transformers initialises missing weights at random: a language model would classify at random.
        raise FalconerError(
            f"evaluate.nli_model: '{folder}' lacks {len(found['missing_keys'])} weights of a classifier.",
            "Give a model trained on NLI data, with its classification head.",
        )
    model.to(device).eval()
    return NliModel(model, tokenizer, values)


@torch.inference_mode()
def classify(
    nli: NliModel, pairs: Sequence[tuple[str, str]], batch_size: int, on_progress: Callable[[int, int], None]
) -> np.ndarray:
    """Return the value of the most probable label of each (premise, hypothesis): 1, 0 or -1, int64 [N].

    Raises:
        FalconerError: the model's output is NaN.
    """
    found = np.zeros(len(pairs), dtype=np.int64)
    order = sorted(range(len(pairs)), key=lambda index: len(pairs[index][0]) + len(pairs[index][1]))
    on_progress(0, len(order))
    for start in range(0, len(order), batch_size):
        group = order[start : start + batch_size]
        premises, hypotheses = zip(*(pairs[index] for index in group), strict=True)
        inputs = nli.tokenizer(list(premises), list(hypotheses), padding=True, truncation=True, return_tensors="pt")
        logits = nli.model(**inputs.to(nli.model.device)).logits.float()
        if torch.isnan(logits).any():
            raise FalconerError("The output of the NLI model is NaN.", "Use another evaluate.nli_model.")
        found[group] = nli.values[logits.argmax(dim=-1).cpu().numpy()]
        on_progress(start + len(group), len(order))
    return found


def _tokenizer(folder: Path) -> Any:
    with explain_missing(str(folder), None):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
