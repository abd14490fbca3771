"""LoRA adapters: creating, saving, verifying and loading them."""

from falconer.model.bnb import bnb as _bnb  # noqa: F401  before peft

# isort: split
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import LoraConfig, PeftConfig, PeftModel, PeftType, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from transformers import Conv1D, PreTrainedTokenizerFast

from falconer import runtime
from falconer.data.prompt import PromptFormat, template_sha256
from falconer.errors import FalconerError
from falconer.files.disk_errors import rust_disk_errors
from falconer.files.json_record import read_object
from falconer.files.replace import replace_folder
from falconer.model.adapter_files import WEIGHTS, check_adapter_files, check_tensors
from falconer.model.guards import check_adapter_config, no_pickle
from falconer.model.lora_targets import WORDS, allowed, beside_text, layer_paths, quiet_about_layers
from falconer.model.patterns import check_patterns
from falconer.run.manifest import write_folder_manifest

T = TypeVar("T")

RECORD = "falconer.json"
_LESS_DROPOUT = "Set lora.dropout=0, or adapt other layers. "


def lora_facts(model: Any) -> dict[str, str]:
    """Return the settings of an adapter, which for a continued adapter may differ from the run's configuration."""
    made = model.peft_config["default"]
    targets = made.target_modules
    names = targets if isinstance(targets, str) else ", ".join(sorted(targets or ()))
    return {"r": str(made.r), "alpha": str(made.lora_alpha), "dropout": str(made.lora_dropout), "targets": names}


def add_adapter(model: Any, *, r: int, alpha: int, dropout: float, targets: str, seed: int) -> PeftModel:
    """Add a new LoRA adapter to a frozen model; its weights depend on `seed` alone.

    Args:
        targets: module names, or ends of their paths, comma-separated; "auto": PEFT's choice; "all-linear": all linear
            layers but the head.

    Raises:
        FalconerError: the model has no such module, or PEFT does not support this for its type.
    """
    names = [name.strip() for name in targets.split(",") if name.strip()]
    word = next((name for name in names if name in WORDS), None)
    if word and len(names) > 1:
        raise FalconerError(
            f"lora.targets={targets} combines '{word}' with names of layers.",
            f"Use one or the other. Allowed: {allowed(model, dropout)}.",
        )
    paths = layer_paths(model)
    missing = [name for name in names if not any(f".{path}".endswith(f".{name}") for path in paths)]
    if not word and (missing or not names):
        raise FalconerError(
            f"lora.targets names '{', '.join(missing) or targets}', which this model does not have.",
            f"Allowed: {allowed(model, dropout)}.",
        )
    runtime.seed_everything(seed)
    config = LoraConfig(
        r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=WORDS[word] if word else names, bias="none",
        task_type="CAUSAL_LM", exclude_modules=beside_text(model),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )  # fmt: skip
    try:
        with quiet_about_layers():
            return get_peft_model(model, config)
    except ValueError as error:
        if word == "auto":
            reason = "PEFT has no default for this type"
        else:
            reason = " ".join(str(error).split()).partition(". ")[0].removeprefix("[PEFT:PeftType.LORA] ").rstrip(".")
        raise FalconerError(
            f"PEFT can't apply lora.targets={targets} to a model of type {model.config.model_type}: {reason}.",
            f"{_LESS_DROPOUT if 'lora_dropout' in str(error) else ''}Allowed: {allowed(model, dropout)}.",
        ) from error


def load_adapter(model: Any, folder: Path, *, trainable: bool = False) -> PeftModel:
    """Load a saved adapter onto a base model.

    Raises:
        FalconerError: the folder contains no adapter, or it is damaged or belongs to another base; or it is to be
            trained and changes the biases of the base.
    """
    adapted = _load(folder, model, lambda: PeftModel.from_pretrained(model, folder, is_trainable=trainable))
    _check_tensors(adapted, folder)
    if trainable:
        _check_base_stays(adapted)
    return adapted


def load_adapters(model: Any, folders: Mapping[str, Path]) -> PeftModel:
    """Load several saved adapters onto one base model; the first one is active.

    Args:
        folders: at least one, by the name of the adapter.

    Raises:
        FalconerError: a name can't be used, PEFT can't load these adapters side by side, an adapter changes the biases
            of the base; or see `load_adapter`.
    """
    kinds: dict[str, str] = {}
    for name, folder in folders.items():
        _check_name(name)
        kinds[name] = _load(folder, model, lambda: PeftConfig.from_pretrained(str(folder))).peft_type  # noqa: B023  called here
        first = next(iter(kinds))
        if kinds[name] != kinds[first]:
            one, other = (f"'{each}' ('{folders[each]}', {PeftType(kinds[each]).value})" for each in (first, name))
            raise FalconerError(
                f"The adapters {one} and {other} can't be loaded on one base: they are of different types.",
                "Start one process for each of them.",
            )
    names = list(folders)
    own = folders[names[0]]
    adapted: PeftModel = _load(own, model, lambda: PeftModel.from_pretrained(model, own, adapter_name=names[0]))
    device = str(next(model.parameters()).device)
    for name in names[1:]:
        _load(folders[name], model, lambda: adapted.load_adapter(folders[name], name, torch_device=device))  # noqa: B023
    for name in names:
        _check_base_stays(adapted, adapted.peft_config[name])
        _check_tensors(adapted, folders[name], name)
    return adapted


def _load(folder: Path, model: Any, load: Callable[[], T]) -> T:
    """Return what `load` reads from the folder of an adapter, after the checks of strangers' files.

    Args:
        model: the base model.

    Raises:
        FalconerError: see `load_adapter`.
    """
    check_adapter_files(folder)
    try:
        # safetensors says "no such file" of one that may not be read.
        for name in (WEIGHTS, "adapter_config.json"):
            (folder / name).open("rb").close()
        config = read_object(folder / "adapter_config.json", "Use another checkpoint, or train again.")
        check_patterns(folder / "adapter_config.json", config, [path for path, _ in model.named_modules()])
        check_adapter_config(folder, config)
        with no_pickle(), quiet_about_layers():
            return load()
    except (FalconerError, MemoryError, torch.OutOfMemoryError, ModuleNotFoundError):
        raise
    except OSError as error:
        raise FalconerError(
            f"'{error.filename or folder}' can't be read: {error.strerror or error}.",
            "Give the user of this process the right to read it, e.g. with chmod.",
        ) from error
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FalconerError(
            f"The adapter in '{folder}' does not fit this base model: {reason}",
            "Use the base model that it was trained on.",
        ) from error
    except Exception as error:
        # What a stranger's files contain can raise anything in PEFT and safetensors.
        raise FalconerError(
            f"The adapter in '{folder}' is damaged: {type(error).__name__}: {error}.",
            "Use another checkpoint, or train again.",
        ) from error


def _check_tensors(model: PeftModel, folder: Path, name: str = "default") -> None:
    # PEFT keeps initial values for missing ones, and only warns. Other types may have tensors that are never saved.
    if model.peft_config[name].peft_type == PeftType.LORA:
        saved = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
        check_tensors(folder, saved.keys())


def _check_name(name: str) -> None:
    """Check that an adapter may have a name: PEFT makes it the name of a module, inside one with names of its own."""
    is_taken = hasattr(nn.ModuleDict(), name) or hasattr(nn.ParameterDict(), name) or name in "lora_"
    if is_taken or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) is None:
        raise FalconerError(
            f"An adapter can't have the name '{name}'.",
            "Names consist of letters, digits, '-' and '_', and start with a letter or digit"
            + (f"; '{name}' has a meaning of its own: choose another one." if is_taken and name else "."),
        )


def _check_base_stays(model: PeftModel, config: PeftConfig | None = None) -> None:
    """Reject an adapter that still has an effect when disabled: base and tuned model could not be compared.

    Args:
        config: that of the adapter; None: of the active one.
    """
    config = config or model.active_peft_config
    if isinstance(config, LoraConfig) and config.bias != "none":
        raise FalconerError(
            f"This adapter also changes the biases of its base (bias='{config.bias}'), so the base model could not be "
            "evaluated for comparison.",
            "Use an adapter with bias='none', or merge this one into its base and train a new one.",
        )


def trainable_tensors(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the adapter's parameters by name, in a fixed order."""
    return {name: parameter for name, parameter in sorted(model.named_parameters()) if parameter.requires_grad}


def adapter_sha256(model: nn.Module) -> str:
    """Return a hash over the adapter's values; for a new adapter it shows that the seed determines them."""
    digest = hashlib.sha256()
    for name, parameter in trainable_tensors(model).items():
        digest.update(name.encode())
        digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_adapter(
    model: PeftModel, tokenizer: PreTrainedTokenizerFast, folder: Path, text_style: str, format: PromptFormat
) -> None:
    """Save adapter and tokenizer in a folder that plain PEFT and transformers can load, and verify it.

    Raises:
        FalconerError: the disk is full (the previous folder is kept), or the written file differs from the adapter.
    """
    with replace_folder(folder) as aside:
        write_adapter(model, aside)
        with rust_disk_errors():
            tokenizer.save_pretrained(str(aside))
        record = {
            "template_sha256": template_sha256(str(tokenizer.chat_template)),
            "text": text_style,
            "prompt_format": asdict(format),
            "falconer": runtime.metadata_version("falconer"),
        }
        (aside / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        write_folder_manifest(aside)


def write_adapter(model: Any, folder: Path) -> None:
    """Write the adapter's two files into an existing folder and compare what was written with what is in memory.

    Raises:
        FalconerError: they differ.
        OSError: the disk is full.
    """
    with rust_disk_errors():
        for config in model.peft_config.values():
            config.base_model_name_or_path = _portable(config.base_model_name_or_path)
        # save_embedding_layers: "auto" would ask the hub whether the vocabulary grew; we never resize it.
        model.save_pretrained(str(folder), save_embedding_layers=False)
    page, base = folder / "README.md", str(getattr(model.config, "_name_or_path", ""))
    if page.is_file() and Path(base).is_absolute():
        page.write_text(page.read_text(encoding="utf-8").replace(base, Path(base).name), encoding="utf-8")
    written = load_file(folder / WEIGHTS)
    in_memory = trainable_tensors(model)
    if len(written) != len(in_memory):
        raise FalconerError(
            f"The adapter has {len(in_memory)} tensors, but {len(written)} were saved.",
            "Report this with the model's name.",
        )
    names = saved_names(model)
    for name, parameter in in_memory.items():
        if not torch.equal(written[names[name]], parameter.detach().cpu()):
            raise FalconerError(
                f"The saved adapter differs from the one in memory at {name}.",
                "Check the disk, or save to another one.",
            )


def _portable(base: str | None) -> str | None:
    """Return the name of a base model without the path of a folder on this machine, which means nothing elsewhere."""
    return Path(base).name if base and Path(base).is_absolute() else base


def saved_names(model: Any) -> dict[str, str]:
    """Return the name of each trainable tensor in an adapter's file."""
    saved = get_peft_model_state_dict(model, save_embedding_layers=False)
    # PEFT does not only remove the adapter's name (DoRA's magnitudes, modules that are saved whole).
    names = {tensor.data_ptr(): name for name, tensor in saved.items()}
    return {name: names[parameter.data_ptr()] for name, parameter in trainable_tensors(model).items()}


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Run the base model alone: the same weights and the same prompt, no adapter.

    Raises:
        FalconerError: the adapter has changed the base's own biases.
    """
    if isinstance(model, PeftModel):
        _check_base_stays(model)
        with model.disable_adapter():
            yield
    else:
        yield
