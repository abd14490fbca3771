"""What is exported and certified: an adapter with its base model, as a run trained them or as another program did."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from falconer import runtime
from falconer.config import Config
from falconer.data.prompt import PromptFormat
from falconer.data.sources import SAMPLE, load_dialogues
from falconer.errors import FalconerError
from falconer.evaluate.needs import check_adapter
from falconer.evaluate.text.bootstrap import MIN_DIALOGUES
from falconer.files.json_record import read_object
from falconer.model.adapter_record import adapter_format
from falconer.model.base_files import same_base
from falconer.model.lora import check_adapter_files
from falconer.records import Dialogue
from falconer.run.folder import ADAPTER, read_config, read_record
from falconer.train import setup

Form = Literal["bf16", "nf4"]
# Of an adapter whose configuration does not say how long its dialogues may be.
_MAX_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Tuned:
    """An adapter with everything that is needed to export it.

    Args:
        model, revision: the base.
        adapter: its folder.
        format: of its prompts; None: as the adapter's folder records it.
        trained_on: the form of the base in training; None if that is not known.
        precision: of the computation in training; None if that is not known.
        device: "auto", "cpu" or "cuda", as in the configuration.
        dialogues: to measure on; `data` says where they come from.
        record: the run's run.json; empty where there is no run.
    """

    model: str
    revision: str | None
    adapter: Path
    format: PromptFormat | None
    trained_on: Form | None
    precision: torch.dtype | None
    device: str
    max_tokens: int
    dialogues: tuple[Dialogue, ...]
    data: str
    notes: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)

    def same_base(self) -> AbstractContextManager[None]:
        """Read the base model inside this context, which checks that it is the one that the run was trained with."""
        return same_base(self.record, self.model, self.revision)

    @property
    def reference_form(self) -> Form:
        """The form of the base that the adapter of the reference stands on: that of training, if it is known."""
        return self.trained_on or "bf16"


def tuned_of_run(run: Path, config: Config | None = None, adapter: str = ADAPTER) -> Tuned:
    """Return what a run trained.

    Its own test dialogues are measured on; if their file is gone or has changed, those that falconer contains.

    Args:
        config: the run's, with `model.device` as the user wants it now; read from the run if it is None.
        adapter: a folder inside the run.

    Raises:
        FalconerError: no run, or no adapter yet.
    """
    config = config or read_config(run)
    check_adapter(run, adapter)
    check_adapter_files(run / adapter)
    dialogues, data, notes = _dialogues_of(run, config)
    return Tuned(
        config.model.name, config.model.revision, run / adapter, setup.recorded_format(run, config),
        "nf4" if config.model.quantization == "nf4" else "bf16", _recorded_precision(run), config.model.device,
        config.data.max_tokens, dialogues, data, notes, read_record(run),
    )  # fmt: skip


def tuned_of_adapter(adapter: Path, model: str | None, revision: str | None = None, device: str = "auto") -> Tuned:
    """Return an adapter that no run of falconer is known of.

    Args:
        model: its base; None: as its configuration names it.

    Raises:
        FalconerError: the folder contains no adapter, or its configuration names no base.
    """
    check_adapter_files(adapter)
    path = adapter / "adapter_config.json"
    named = read_object(path, "Use another copy of the adapter.").get("base_model_name_or_path")
    if model is None and not (isinstance(named, str) and named):
        raise FalconerError(f"'{path}' does not name the base model.", "Give it with --model NAME.")
    return Tuned(
        model or str(named), revision, adapter, adapter_format(adapter), None, None, device, _MAX_TOKENS, _sample(),
        SAMPLE,
    )  # fmt: skip


def _dialogues_of(run: Path, config: Config) -> tuple[tuple[Dialogue, ...], str, tuple[str, ...]]:
    """Return dialogues to measure a run's adapter on, where they come from, and a note if they are not the run's."""
    instead = "measured on dialogues that are part of falconer, since"
    try:
        own = setup.evaluation_data(run, config).dialogues
    except FalconerError as error:
        return _sample(), SAMPLE, (f"{instead} the run's can't be read: {error.message}",)
    if len(own) < MIN_DIALOGUES:
        return _sample(), SAMPLE, (f"{instead} the run has only {len(own)} for testing",)
    return own, "the run's test dialogues", ()


def _sample() -> tuple[Dialogue, ...]:
    return tuple(load_dialogues(SAMPLE, split="test").dialogues)


def _recorded_precision(run: Path) -> torch.dtype | None:
    """Return the precision that a run says it computed with ("bf16: the CPU has amx_bf16")."""
    named = str(read_record(run).get("precision", "")).partition(":")[0]
    known = {"bf16": torch.bfloat16, "fp32": torch.float32}
    return known.get(named)


def measuring_dtype(num_parameters: int, device: torch.device) -> Literal["auto", "bf16", "fp32"]:
    """Return the precision in which models are compared: fp32 where it is affordable, since it adds no rounding.

    Args:
        num_parameters: of the model.
    """
    if device.type == "cuda":
        return "fp32" if num_parameters < 10**9 else "auto"
    # Four bytes each, and half as much again for what a forward pass needs.
    return "fp32" if 6 * num_parameters / 2**30 < runtime.free_gib(device) else "bf16"
