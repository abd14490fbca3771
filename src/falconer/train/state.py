"""Checkpoints: everything a run needs to go on as if it had never stopped, without a pickle.

checkpoints/last/   adapter_model.safetensors  adapter_config.json  optimizer.safetensors  rng.safetensors  state.json
"""

import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from falconer.errors import FalconerError
from falconer.files import recover_folder, replace_folder, sha256
from falconer.model.lora import WEIGHTS, disk_error, trainable_tensors, write_adapter

STATE = "state.json"
OPTIMIZER = "optimizer.safetensors"
RNG = "rng.safetensors"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands.

    Args:
        step: optimiser steps done.
        epoch, position: the next step is step `position` of epoch `epoch`.
        best_loss, best_step: lowest validation loss so far, in nats per target token (infinite and 0 before any).
        stale_validations: validations since then.
        trained_s: seconds of training so far.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    best_loss: float = float("inf")
    best_step: int = 0
    stale_validations: int = 0
    trained_s: float = 0.0


def save_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.AdamW, progress: Progress) -> None:
    """Write a checkpoint aside, then let it take the place of the one before.

    Raises:
        FalconerError: no space on the disk; the checkpoint before stays whole.
    """
    with replace_folder(folder) as aside:
        write_adapter(model, aside)
        _save(_optimizer_tensors(model, optimizer), aside / OPTIMIZER)
        _save(_rng_tensors(), aside / RNG)
        files = {name: sha256(aside / name) for name in (WEIGHTS, OPTIMIZER, RNG)}
        state = {"progress": asdict(progress), "python_rng": _python_rng(), "sha256": files}
        (aside / STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")


def load_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.AdamW, device: torch.device) -> Progress:
    """Put a checkpoint's weights, optimiser state and random generators back.

    Raises:
        FalconerError: there is none, or a file of it is damaged or belongs to another adapter.
    """
    hint = "Start anew with another --run, or copy an undamaged checkpoint into its place."
    recover_folder(folder)
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        for name, expected in state["sha256"].items():
            if sha256(folder / name) != expected:
                raise FalconerError(f"The checkpoint in '{folder}' is damaged: {name} is not what was saved.", hint)
        adapter, optimizer_state, rng = (load_file(folder / name) for name in (WEIGHTS, OPTIMIZER, RNG))
        progress = Progress(**state["progress"])
    except FileNotFoundError as error:
        raise FalconerError(
            f"There is no checkpoint to resume in '{folder}' ({Path(str(error.filename)).name} is missing).", hint
        ) from error
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError, SafetensorError) as error:
        raise FalconerError(f"The checkpoint in '{folder}' is damaged: {error}.", hint) from error
    parameters = trainable_tensors(model)
    with torch.no_grad():
        for name, parameter in parameters.items():
            saved = adapter.get(name.replace(".default", ""))
            if saved is None or saved.shape != parameter.shape:
                raise FalconerError(
                    f"The checkpoint in '{folder}' belongs to another adapter: {name} does not fit.", hint
                )
            parameter.copy_(saved)
    _restore_optimizer(optimizer, parameters, optimizer_state)
    _restore_rng(rng, state["python_rng"], device)
    return progress


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
        # AdamW keeps its step counter on the CPU, the moments beside the parameter.
        optimizer.state[parameter] = {k: v.clone() if k == "step" else v.to(parameter.device) for k, v in state.items()}


def _rng_tensors() -> dict[str, torch.Tensor]:
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return tensors


def _python_rng() -> dict[str, Any]:
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(internal), gauss],
        "numpy": [kind, np.asarray(keys).tolist(), position, has_gauss, cached],
    }


def _restore_rng(tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any], device: torch.device) -> None:
    torch.set_rng_state(tensors["torch"])
    if device.type == "cuda" and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"], device)
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))


def _save(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise disk_error(error) from error
