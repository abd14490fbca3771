"""Adapters and models that were not trained here, from a folder or the hub: base model, prompt format, settings."""

import dataclasses
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from falconer import runtime
from falconer.config import USED_ANYHOW, Config, differences, load
from falconer.data.prompt import CHAT_TEMPLATE, PromptFormat
from falconer.errors import FalconerError
from falconer.files.json_record import read_object
from falconer.files.locks import lock_run
from falconer.files.replace import replace_folder, sha256
from falconer.model.adapter_record import adapter_format
from falconer.model.hub import as_repository, find_adapter, find_folder
from falconer.model.lora import RECORD as ADAPTER_RECORD
from falconer.model.lora import WEIGHTS, check_adapter_files
from falconer.model.tokenizer import open_tokenizer
from falconer.run.folder import ADAPTER, adapter_hashes, is_run, read_record, write_run

_CONFIG = "adapter_config.json"
# What the user may say of an adapter whose folder does not, or says wrongly.
_OF_THE_BASE = ("model.name", "model.revision", "model.quantization", "data.max_tokens", "data.text")


@dataclass(frozen=True, slots=True)
class Found:
    """An adapter from elsewhere.

    Args:
        given: as the user named it.
        folder: where its files are now.
        is_whole: it is a model of its own, such as a merged one, and no adapter.
        config: of a chat or an evaluation with it.
        notes: what the user should know: above all, where the prompt's format is from.
    """

    given: str
    folder: Path
    config: Config
    format: PromptFormat
    notes: tuple[str, ...]
    is_whole: bool = False

    @property
    def name(self) -> str:
        """Its name without owner, revision and folders."""
        repository = None if os.path.isdir(self.given) else as_repository(self.given)
        return repository.name.partition("/")[2] if repository else Path(self.given).resolve().name


def find(given: str, overrides: Sequence[str] = (), allowed: Sequence[str] = ()) -> Found:
    """Find an adapter, downloading it if it is on the hub, and read what its folder says.

    Args:
        given: a folder, or OWNER/NAME or OWNER/NAME@REVISION on the hub.
        overrides: settings, `section.key=value`.
        allowed: keys or sections ("evaluate.") that may be set beside model.* and data.max_tokens.

    Raises:
        FalconerError: no such adapter, one that is not a LoRA, one that names no base model, or a setting that has no
            effect here.
    """
    folder = find_folder(given)
    is_whole = (folder / "config.json").is_file() and not (folder / _CONFIG).is_file()
    made = _itself(given) if is_whole else _adapter_config(given)
    recorded = _read(folder / ADAPTER_RECORD) if (folder / ADAPTER_RECORD).is_file() else {}
    base, notes = _base_settings(given, made, recorded, overrides, is_whole=is_whole)
    before = load(None, base)
    config = load(None, overrides, base=before)
    own = (*USED_ANYHOW, *_OF_THE_BASE, *allowed)
    if refused := [key for key in differences(before, config) if not key.startswith(own)]:
        raise FalconerError(
            f"{', '.join(refused)} can't be set for an adapter that was trained elsewhere.",
            f"You can set {', '.join(sorted(own))}.",
        )
    format = adapter_format(folder)
    if format is None:
        format, note = _assumed(config, folder)
        notes.append(note)
    else:
        notes.append("prompts are written as in its training, which its falconer.json records")
    return Found(given, folder, config, format, tuple(notes), is_whole)


def make_run(found: Found, data: str, run: Path | None = None) -> Path:
    """Write a run's folder around an adapter, so that it can be evaluated on some dialogues like a run.

    Args:
        data: the dialogues to evaluate on.
        run: the folder; None: runs/NAME. It may be that of an earlier evaluation of the same adapter.

    Returns:
        The folder.

    Raises:
        FalconerError: the folder contains another run, or can't be written to.
    """
    if found.is_whole:
        raise FalconerError(
            f"'{found.given}' is a whole model; an evaluation compares an adapter with its base model.",
            "Give an adapter, or score the model's replies: falconer score FILE.",
        )
    run = run or Path("runs") / found.name
    weights = sha256(found.folder / WEIGHTS)
    if is_run(run) and read_record(run).get("imported", {}).get("sha256") != weights:
        raise FalconerError(
            f"'{run}' already contains another run.", "Choose another folder for this evaluation with --run."
        )
    tree = found.config.model_dump()
    # Nothing is known of the training data.
    tree["data"] |= {"train": data, "test": data}
    with lock_run(run):
        if adapter_hashes(run) != {f"{ADAPTER}/{WEIGHTS}": weights}:
            with replace_folder(run / ADAPTER) as aside:
                for path in found.folder.iterdir():
                    # In the hub's cache, files are links.
                    if path.is_file():
                        shutil.copyfile(path, aside / path.name)
        record = {
            "environment": runtime.environment(runtime.pick_device(found.config.model.device)),
            "imported": {"given": found.given, "sha256": weights},
            "data": {},
            "prompt_format": dataclasses.asdict(found.format),
            "notes": list(found.notes),
        }
        write_run(run, Config.model_validate(tree), record)
    return run


def _itself(given: str) -> dict[str, Any]:
    """Return what an adapter's configuration would say of a model that is its own base."""
    repository = None if os.path.isdir(given) else as_repository(given)
    return {
        "base_model_name_or_path": repository.name if repository else given,
        "revision": repository.revision if repository else None,
    }


def _adapter_config(given: str) -> dict[str, Any]:
    folder = find_adapter(given)
    check_adapter_files(folder)
    made = _read(folder / _CONFIG)
    if made.get("peft_type") != "LORA":
        raise FalconerError(
            f"'{given}' is an adapter of type {made.get('peft_type')}, not a LoRA.", "Only LoRA adapters can be used."
        )
    return made


def _base_settings(
    given: str, made: dict[str, Any], recorded: dict[str, Any], overrides: Sequence[str], *, is_whole: bool
) -> tuple[list[str], list[str]]:
    """Return the settings of an adapter's base model, and notes on them."""
    names = {text.partition("=")[0] for text in overrides}
    settings, notes = [], []
    base = made.get("base_model_name_or_path")
    if "model.name" not in names:
        if not isinstance(base, str) or not base:
            raise FalconerError(
                f"'{given}' does not say which base model it was trained on.", "Give it: model.name=OWNER/NAME."
            )
        if base.startswith(("/", "~", ".")) and not os.path.isdir(base):
            raise FalconerError(
                f"'{given}' was trained on '{base}', a folder of another machine.",
                "Give the base model: model.name=OWNER/NAME, or its folder here.",
            )
        settings.append(f"model.name={base}")
        if isinstance(made.get("revision"), str):
            settings.append(f"model.revision={made['revision']}")
    about = recorded.get("base") if isinstance(recorded.get("base"), dict) else {}
    if about and about.get("quantization") in ("nf4", "none"):
        settings.append(f"model.quantization={about['quantization']}")
    elif "model.quantization" not in names:
        settings.append("model.quantization=none")
        notes += (
            []
            if is_whole
            else [
                "the adapter does not record whether its base was in 4 bits, so it is not quantised; "
                "model.quantization=nf4 needs a quarter of the memory"
            ]
        )
    if about and type(about.get("max_tokens")) is int:
        settings.append(f"data.max_tokens={about['max_tokens']}")
    if recorded.get("text") in ("raw", "natural"):
        settings.append(f"data.text={recorded['text']}")
    return settings, notes


def _assumed(config: Config, folder: Path) -> tuple[PromptFormat, str]:
    """Return the format of prompts that nothing records, and a note on it."""
    opened = open_tokenizer(config.model.name, config.model.revision)
    file = folder / "chat_template.jinja"
    template = file.read_text(encoding="utf-8", errors="replace").rstrip() if file.is_file() else ""
    format = PromptFormat(bos=opened.bos, multi_line=True, is_spaced=False)
    if template.endswith(CHAT_TEMPLATE):
        return format, "prompts are written with the chat template of the adapter's folder, which is falconer's"
    return format, (
        "falconer's prompt format is not recorded, so prompts are written as falconer writes them by "
        "default; what was trained with other prompts replies worse to these"
    )


def _read(path: Path) -> dict[str, Any]:
    return read_object(path, "Download or copy it again.")
