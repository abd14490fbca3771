"""Checkpoints: saving and restoring the adapter, the optimiser and the progress of a training.

checkpoints/last/   adapter_model.safetensors  adapter_config.json  optimizer.safetensors  state.json  steps.jsonl
                    manifest.json

A resumed run equals an uninterrupted one: the order of the data, the learning rate and dropout are functions of the
seed and the step. Nothing is pickled.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from falconer.errors import FalconerError, first_problem
from falconer.files.disk_errors import rust_disk_errors
from falconer.files.json_record import read_object
from falconer.files.replace import replace_folder
from falconer.model.lora import WEIGHTS, saved_names, trainable_tensors, write_adapter
from falconer.run.folder import STEPS
from falconer.run.manifest import check_folder, file_sha256, write_folder_manifest

STATE = "state.json"
OPTIMIZER = "optimizer.safetensors"
_HINT = "Start a new run with another --run, or copy an undamaged checkpoint into its place."


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a run.

    Args:
        step: number of finished optimiser steps.
        epoch, position: the next step is step `position` of epoch `epoch`.
        best_loss, best_step: lowest validation loss so far, in nats per target token (infinity and 0 before the first).
        stale_validations: number of validations since then.
        trained_s: seconds of training so far.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    best_loss: float = float("inf")
    best_step: int = 0
    stale_validations: int = 0
    trained_s: float = 0.0


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.AdamW, progress: Progress, steps: Path | None = None
) -> None:
    """Write a checkpoint and replace the previous one with it, atomically.

    Args:
        steps: the run's steps.jsonl, of which the checkpoint keeps a copy.

    Raises:
        FalconerError: the disk is full; the previous checkpoint is kept.
    """
    with replace_folder(folder) as aside:
        write_adapter(model, aside)
        _save(_optimizer_tensors(model, optimizer), aside / OPTIMIZER)
        if steps is not None:
            shutil.copyfile(steps, aside / STEPS)
        # A checkpoint without manifest.json is either of an older version, or damaged.
        state = {"progress": asdict(progress), "has_manifest": True}
        (aside / STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        write_folder_manifest(aside)


def load_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.AdamW) -> Progress:
    """Restore the weights and the optimiser state of a checkpoint, and return its progress.

    Raises:
        FalconerError: there is no checkpoint, or one of its files is damaged or belongs to another adapter. Nothing was
            changed.
    """
    progress = read_progress(folder)
    with _explained(folder):
        adapter, optimizer_state = load_file(folder / WEIGHTS), load_file(folder / OPTIMIZER)
    parameters = trainable_tensors(model)
    names = saved_names(model)
    expected = {names[name]: parameter.shape for name, parameter in parameters.items()}
    saved = {name: tensor.shape for name, tensor in adapter.items()}
    if expected != saved:
        name = min(name for name in expected.keys() | saved.keys() if expected.get(name) != saved.get(name))
        raise FalconerError(f"The checkpoint in '{folder}' belongs to another adapter: {name} does not match.", _HINT)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(adapter[names[name]])
    _restore_optimizer(optimizer, parameters, optimizer_state)
    return progress


def read_progress(folder: Path) -> Progress:
    """Return the progress of a checkpoint without loading its weights, after checking the hashes of all its files.

    Raises:
        FalconerError: there is no checkpoint, or one of its files is damaged.
    """
    with _explained(folder):
        for name in (STATE, WEIGHTS, OPTIMIZER):
            os.stat(folder / name)  # a missing one is told otherwise than one that is damaged
        state = read_object(folder / STATE, _HINT)
        given = Progress(**state["progress"])  # refuses unknown names
        progress = TypeAdapter(Progress).validate_json(json.dumps(asdict(given)), strict=True)
        check_folder(folder, _HINT, is_required="has_manifest" in state)
        # Of versions without manifests.
        for name, digest in state.get("sha256", {}).items():
            if file_sha256(folder / name, _HINT) != digest:
                raise FalconerError(
                    f"The checkpoint in '{folder}' is damaged: the hash of {name} differs from the recorded one.", _HINT
                )
    return progress


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Raise what goes wrong while a checkpoint is read as a FalconerError."""
    try:
        yield
    except FileNotFoundError as error:
        raise FalconerError(
            f"There is no checkpoint to resume from in '{folder}' ({Path(str(error.filename)).name} is missing).", _HINT
        ) from error
    except ValidationError as error:
        key, problem = first_problem(error)
        raise FalconerError(f"The checkpoint in '{folder}' is damaged: {STATE}, '{key}': {problem}.", _HINT) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise FalconerError(f"The checkpoint in '{folder}' is damaged: {error}.", _HINT) from error


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.AdamW) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value
        for name, parameter in trainable_tensors(model).items()
        for key, value in optimizer.state[parameter].items()
    }


def _restore_optimizer(
    optimizer: torch.optim.AdamW, parameters: Mapping[str, nn.Parameter], saved: Mapping[str, torch.Tensor]
) -> None:
    for name, parameter in parameters.items():
        prefix = f"{name}."
        state = {key.removeprefix(prefix): value for key, value in saved.items() if key.startswith(prefix)}
        # AdamW keeps its step counter on the CPU, and the moments on the device of the parameter.
        optimizer.state[parameter] = {k: v.clone() if k == "step" else v.to(parameter.device) for k, v in state.items()}


def _save(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    with rust_disk_errors():
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
