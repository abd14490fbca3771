"""What `falconer serve` serves: a run's model and further adapters on the same base, checked before loading."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from falconer.config import Config
from falconer.data.encode import Encoder
from falconer.data.prompt import PromptFormat
from falconer.errors import FalconerError
from falconer.evaluate.needs import check_adapter
from falconer.files.json_record import object_in, read_object
from falconer.model.adapter_record import adapter_format
from falconer.model.base_files import same_base
from falconer.model.engine import Engine, RunningBatch
from falconer.model.hub import as_repository, find_adapter
from falconer.model.load import LoadedModel, load_model
from falconer.model.lora import load_adapters
from falconer.run.folder import ADAPTER, is_run, read_config, read_record
from falconer.train import setup

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """An adapter to be served.

    Args:
        name: by which requests ask for it.
        folder: with its weights.
        format: of its prompts; None: the run's.
    """

    name: str
    folder: Path
    format: PromptFormat | None


@dataclass(frozen=True, slots=True)
class Served:
    """A base model with its adapters, ready to be asked.

    Args:
        base_name: by which requests ask for the base alone.
        encoders: of each adapter, in the order in which they were given, and of the base, by name; their prompt formats
            may differ.
        adapters: the engine's names of the adapters, by name.
        notes: what the user should know before using them.
    """

    base_name: str
    base: LoadedModel
    engine: Engine
    encoders: Mapping[str, Encoder]
    adapters: Mapping[str, str]
    notes: tuple[str, ...]


def base_name(config: Config) -> str:
    """Return the name of a base model: as the hub has it, or the last part of its path."""
    name = config.model.name
    return Path(name).name if name.startswith((".", "/", "~")) or os.path.isdir(name) else name


def find_adapters(run: Path, adapter: str, given: Sequence[str]) -> list[AdapterFolder]:
    """Return a run's adapter, which has the run's name, and those that are given as NAME=FOLDER; no weight is loaded.

    Args:
        adapter: the folder of the run's adapter inside the run.

    Raises:
        FalconerError: a name is not usable or given twice, or a folder has no adapter, or one of another base.
    """
    config = read_config(run)
    check_adapter(run, adapter)
    # Of the folder as it is, even if it was given as ".".
    own = AdapterFolder(run.resolve().name, run / adapter, None)
    found = [own]
    for text in given:
        name, separator, folder = text.partition("=")
        if not separator or not name or not folder:
            raise FalconerError(f"--adapter {text} is not NAME=FOLDER.", "Write e.g. --adapter pirate=runs/pirate.")
        found.append(_find(name, Path(folder), config, own.folder))
    names = [base_name(config), *(one.name for one in found)]
    for name in names[1:]:
        if names.count(name) > 1:
            raise FalconerError(
                f"Two models have the name '{name}'.", "Give each adapter another one: --adapter NAME=FOLDER."
            )
        if not all(character.isalnum() or character in "-_.:@" for character in name):
            raise FalconerError(
                f"'{name}' can't be the name of a model.", "Use letters, digits and the characters - _ . : @ alone."
            )
    return found


def open_served(config: Config, run: Path, adapters: Sequence[AdapterFolder]) -> Served:
    """Load a run's base model and all adapters onto it.

    Args:
        config: the run's, with `model.device`, `model.dtype` and `model.path` as the user wants them now.
        adapters: from `find_adapters`.

    Raises:
        FalconerError: a model or adapter is damaged, or they don't belong together.
    """
    model = config.model
    format = setup.recorded_format(run, config)
    with same_base(read_record(run), model.name, model.revision):
        base = load_model(
            model.name, revision=model.revision, quantization=model.quantization, dtype=model.dtype, device=model.device
        )
    # Names of their own, since those that users give may have a full stop.
    inner = {one.name: f"adapter{number}" for number, one in enumerate(adapters)}
    tuned = load_adapters(base.model, {inner[one.name]: one.folder for one in adapters})
    name = base_name(config)
    encoders = {one.name: _encoder(base, config, one.format or format) for one in adapters}
    encoders[name] = _encoder(base, config, format)
    engine = Engine(tuned, encoders[name], base.precision, model.path)
    notes = [note for encoder in encoders.values() for note in setup.bos_notes(base, encoder.format)]
    return Served(name, base, engine, encoders, inner, tuple(dict.fromkeys(notes)))


def open_running(
    config: Config, run: Path, adapters: Sequence[AdapterFolder], num_slots: int
) -> tuple[Served, RunningBatch]:
    """Load what is served, see `open_served`, and start its running batch.

    Raises:
        FalconerError: see there; or there is not enough memory.
    """
    served = open_served(config, run, adapters)
    return served, served.engine.running(num_slots)


def _encoder(base: LoadedModel, config: Config, format: PromptFormat) -> Encoder:
    return setup.make_encoder(base, config.data.max_tokens, format)


def _find(name: str, folder: Path, config: Config, own: Path) -> AdapterFolder:
    option = f"--adapter {name}={folder}"
    if is_run(folder):
        theirs = read_config(folder)
        check_adapter(folder, ADAPTER)
        _check_base(option, theirs.model.name, config.model.name)
        found = AdapterFolder(name, folder / ADAPTER, setup.recorded_format(folder, theirs))
    else:
        if not os.path.exists(folder) and as_repository(str(folder)):
            folder = find_adapter(str(folder))
        for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            if not os.path.isfile(folder / file):
                raise FalconerError(
                    f"{option}: '{folder}' contains neither a run nor an adapter ({file} is missing).",
                    "Give the folder that falconer train --run wrote, or the adapter's folder in it.",
                )
        _check_base(option, _config_of(folder).get("base_model_name_or_path"), _base_of(own, config))
        found = AdapterFolder(name, folder, adapter_format(folder))
    _check_shapes(option, found.folder, own)
    return found


def _check_base(option: str, theirs: object, ours: str) -> None:
    """Compare the names of base models by their last parts: a folder may have been moved."""
    # An adapter of another program may not name its base.
    if isinstance(theirs, str) and theirs and Path(theirs).name.lower() != Path(ours).name.lower():
        raise FalconerError(
            f"{option} was trained on '{theirs}', but this server's base is '{ours}'.",
            "Serve it with a run of its own base, in another process and on another port.",
        )


def _base_of(own: Path, config: Config) -> str:
    name = _config_of(own).get("base_model_name_or_path")
    return name if isinstance(name, str) and name else config.model.name


def _config_of(folder: Path) -> dict[str, Any]:
    return read_object(folder / ADAPTER_CONFIG, "Use another checkpoint.")


def _check_shapes(option: str, folder: Path, own: Path) -> None:
    """Compare the sizes of the layers that both adapters change: their bases must have the same."""
    theirs, ours = _layer_sizes(folder), _layer_sizes(own)
    for layer in sorted(theirs.keys() & ours.keys()):
        if theirs[layer] != ours[layer]:
            raise FalconerError(
                f"{option} does not fit the base of this server: its layer {layer} has size {theirs[layer]}, the "
                f"base's {ours[layer]}.",
                "Serve it with a run of its own base.",
            )


def _layer_sizes(folder: Path) -> dict[str, int]:
    """Return the outer size of each matrix of an adapter, from the head of its file."""
    path = folder / ADAPTER_WEIGHTS
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            head = object_in(
                file.read(min(size, 2**26)).decode("utf-8"), path, "Use another checkpoint, or train again."
            )
        shapes = {name: entry["shape"] for name, entry in head.items() if name != "__metadata__"}
        return {
            name: shape[-1] if ".lora_A." in name else shape[0]
            for name, shape in shapes.items()
            if (".lora_A." in name or ".lora_B." in name) and len(shape) == 2
        }
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise FalconerError(f"'{path}' is damaged: {error}.", "Use another checkpoint, or train again.") from error
