"""The LoRA adapter: making it, saving it so that it can be trusted, and loading it back."""

from falconer.model.bnb import bnb as _bnb  # noqa: F401  before peft

# isort: split
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import Conv1D, PreTrainedTokenizerFast

from falconer import runtime
from falconer.data.prompt import PromptFormat, template_sha256
from falconer.errors import FalconerError
from falconer.files import replace_folder

WEIGHTS = "adapter_model.safetensors"
RECORD = "falconer.json"


def add_adapter(model: Any, *, r: int, alpha: int, dropout: float, targets: str, seed: int) -> PeftModel:
    """Put a fresh LoRA adapter on a frozen model; its weights depend on `seed` alone.

    Args:
        targets: module names, comma-separated; "auto": PEFT's choice; "all-linear": all linear layers but the head.

    Raises:
        FalconerError: no module of that name.
    """
    names = _target_modules(model, targets)
    runtime.seed_everything(seed)
    config = LoraConfig(
        r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=names, bias="none", task_type="CAUSAL_LM",
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )  # fmt: skip
    return get_peft_model(model, config)


def load_adapter(model: Any, folder: Path, *, trainable: bool = False) -> PeftModel:
    """Put a saved adapter on a base model.

    Raises:
        FalconerError: the folder holds no adapter, a damaged one, or one for another base.
    """
    if not (folder / WEIGHTS).is_file() or not (folder / "adapter_config.json").is_file():
        raise FalconerError(
            f"'{folder}' holds no adapter ({WEIGHTS} and adapter_config.json).", "Train one, or check the path."
        )
    try:
        return PeftModel.from_pretrained(model, folder, is_trainable=trainable)
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise FalconerError(
            f"The adapter in '{folder}' is damaged: {type(error).__name__}: {error}.",
            "Use another checkpoint, or train again.",
        ) from error
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise FalconerError(
            f"The adapter in '{folder}' does not fit this base model: {reason}", "Load the base it was trained on."
        ) from error


def recorded_bos(folder: Path) -> str | None:
    """Return what the prompts of a saved adapter begin with, "" for nothing; None where falconer did not save it."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        # Before there was such a record, no prompt began with anything.
        return str(record.get("prompt_format", {}).get("bos", ""))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise FalconerError(f"'{folder / RECORD}' can't be read: {error}.", "Use another checkpoint.") from error


def trainable_tensors(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the adapter's parameters by name, in a fixed order."""
    return {name: parameter for name, parameter in sorted(model.named_parameters()) if parameter.requires_grad}


def adapter_sha256(model: nn.Module) -> str:
    """Return a hash over the adapter's values; a fresh one shows that the seed fixed the initialisation."""
    digest = hashlib.sha256()
    for name, parameter in trainable_tensors(model).items():
        digest.update(name.encode())
        digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_adapter(
    model: PeftModel, tokenizer: PreTrainedTokenizerFast, folder: Path, text_style: str, format: PromptFormat
) -> None:
    """Save adapter and tokenizer as one folder that plain PEFT and transformers load, and read it back to be sure.

    Raises:
        FalconerError: no space (what was there stays), or the file that was written differs from the adapter.
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


def write_adapter(model: Any, folder: Path) -> None:
    """Write the adapter's two files into an existing folder and compare what was written with what is in memory.

    Raises:
        FalconerError: they differ.
        OSError: the disk is full.
    """
    with rust_disk_errors():
        # save_embedding_layers: "auto" would ask the hub whether the vocabulary grew; we never resize it.
        model.save_pretrained(str(folder), save_embedding_layers=False)
    written = load_file(folder / WEIGHTS)
    held = trainable_tensors(model)
    if len(written) != len(held):
        raise FalconerError(
            f"{len(held)} adapter tensors were to be saved, {len(written)} were.", "Report this with the model's name."
        )
    for name, parameter in held.items():
        if not torch.equal(written[name.replace(".default", "")], parameter.detach().cpu()):
            raise FalconerError(
                f"The saved adapter differs from the one in memory at {name}.", "Check the disk; save elsewhere."
            )


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Run the base model alone: the same weights and the same prompt, no adapter."""
    if isinstance(model, PeftModel):
        with model.disable_adapter():
            yield
    else:
        yield


@contextmanager
def rust_disk_errors() -> Iterator[None]:
    """Raise the operating system's error behind a Rust library's "No space left on device (os error 28)".

    safetensors raises its own exception for it, tokenizers a bare one.
    """
    try:
        yield
    except Exception as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), str(error)) from error


def _target_modules(model: Any, targets: str) -> list[str] | str | None:
    if targets in ("auto", "all-linear"):
        return "all-linear" if targets == "all-linear" else None
    wanted = [name.strip() for name in targets.split(",") if name.strip()]
    present = {
        path.rpartition(".")[2] for path, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))
    }
    missing = [name for name in wanted if name not in present]
    if missing or not wanted:
        raise FalconerError(
            f"lora.targets names '{', '.join(missing) or targets}', which this model does not have.",
            f"Allowed: {', '.join(sorted(present))}; or auto, or all-linear.",
        )
    return wanted
