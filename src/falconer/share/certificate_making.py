"""Making certificates: an adapter is measured as it was trained, then its export, on the same dialogues."""

import gc
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch

from falconer import runtime
from falconer.data.encode import Encoder
from falconer.data.prompt import PromptFormat
from falconer.errors import FalconerError
from falconer.files.replace import sha256
from falconer.model.distributions import target_log_probs
from falconer.model.engine import Engine
from falconer.model.export.base import open_base
from falconer.model.export.folder import stated_license
from falconer.model.export.gguf_read import GgufFile, add_lora, put_weights
from falconer.model.load import LoadedModel, load_model
from falconer.model.lora import WEIGHTS, load_adapter, without_adapter
from falconer.model.tokenizer import open_tokenizer
from falconer.share.certificate import (
    NAME,
    Certificate,
    Drift,
    Kind,
    Measured,
    Origin,
    Tokens,
    hash_files,
)
from falconer.share.certificate_drift import (
    OnProgress,
    Questions,
    Reference,
    compare_replies,
    drift,
    greedy_replies,
    questions,
    read_reference,
)
from falconer.share.certificate_tokens import Encode, compare_tokens, folder_encoder, gguf_encoder
from falconer.share.certificate_tuned import Form, Tuned, measuring_dtype
from falconer.train import setup

_FORMS: Mapping[Form, str] = MappingProxyType({"bf16": "its base as stored", "nf4": "its base in NF4"})

# Of an adapter's folder.
_ADAPTER_FILES = (WEIGHTS, "tokenizer.json", "chat_template.jinja")


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Args:
        num_conversations: dialogues whose token ids are compared and whose gold replies are predicted.
        num_replies: greedy replies; 0: none.
        is_measured: False: only token ids, sizes and hashes.
    """

    num_conversations: int = 50
    num_replies: int = 200
    max_new_tokens: int = 32
    is_measured: bool = True


@dataclass(frozen=True, slots=True)
class _Exported:
    """An exported model, loaded.

    Args:
        how: what runs it, in words.
        path: as in `Engine`.
    """

    model: Any
    precision: runtime.Precision
    how: str
    path: Literal["auto", "generic"] = "auto"


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the adapter as it was trained."""

    encoder: Encoder
    asked: Questions
    reference: Reference
    base: Drift
    others: dict[str, Drift]
    notes: tuple[str, ...]


class Certifier:
    """Certifies exports of one adapter.

    The adapter as trained is measured when the first export is certified, and released before that is loaded: one
    model is in memory at a time.

    Args:
        tuned: the adapter with its base.
        on_progress: called with (what is being done, done, total).
        compares_forms: also measure the adapter on the base as stored, where it was trained on NF4.

    Attributes:
        known: what was measured of the adapter as trained; None before the first export.
    """

    def __init__(self, tuned: Tuned, effort: Effort, on_progress: OnProgress, *, compares_forms: bool = False) -> None:
        self._tuned, self._effort, self.on_progress = tuned, effort, on_progress
        self._compares_forms = compares_forms
        self.known: Known | None = None
        self._device = runtime.pick_device(tuned.device)
        opened = open_base(tuned.model, tuned.revision)
        self._folder = opened.folder
        self._num_parameters = sum(parameter.numel() for parameter in opened.skeleton.parameters())
        self._dtype = measuring_dtype(self._num_parameters, self._device)
        self._dialogues = tuned.dialogues[: effort.num_conversations]

    def merged(self, folder: Path, form: Form) -> Certificate:
        """Certify a merged folder."""
        loads = partial(self._load_folder, folder)
        names = [path.name for path in folder.iterdir() if path.is_file() and path.name != NAME]
        dtype = str(open_base(str(folder)).config.dtype).removeprefix("torch.")
        return self._certificate("merged", self._origin(form, dtype), folder, names, folder_encoder(folder), loads)

    def gguf(self, file: Path, folder: Path, form: Form, type: str) -> Certificate:
        """Certify a GGUF file.

        Args:
            folder: the merged folder that it was made from.
        """
        read = GgufFile(file)

        def loads() -> _Exported:
            loaded = self._load_folder(folder)
            put_weights(read, folder, loaded.model)
            return _Exported(loaded.model, loaded.precision, f"the file's tensors, dequantised, in {loaded.how}")

        return self._certificate(
            "gguf", self._origin(form, type), file.parent, [file.name], gguf_encoder(read, folder), loads
        )

    def gguf_adapter(self, file: Path, type: str) -> Certificate:
        """Certify an adapter that was written as GGUF: the base as stored with the file's matrices added."""
        read = GgufFile(file)

        def loads() -> _Exported:
            base = self._load_base("bf16")
            add_lora(read, self._folder, base.model)
            how = f"the file's matrices, added to the base as stored, in {_how(base.precision)}"
            return _Exported(base.model, base.precision, how)

        return self._certificate("gguf-adapter", self._origin("bf16", type), file.parent, [file.name], None, loads)

    def adapter(self) -> Certificate:
        """Certify the adapter itself: PEFT and transformers load its folder, without falconer's fast path."""
        tuned, form = self._tuned, self._tuned.reference_form

        def loads() -> _Exported:
            base = self._load_base(form)
            model = load_adapter(base.model, tuned.adapter)
            return _Exported(model, base.precision, f"PEFT and {_how(base.precision)}", "generic")

        has_tokenizer = (tuned.adapter / "tokenizer.json").is_file()
        encode = folder_encoder(tuned.adapter) if has_tokenizer else None
        # What falconer share writes anew for the hub, such as the name of the base, is not among them.
        names = [name for name in _ADAPTER_FILES if (tuned.adapter / name).is_file()]
        # Loading the base checks it. Where nothing is measured it is not loaded, and is checked all the same.
        with nullcontext() if self._effort.is_measured else tuned.same_base():
            return self._certificate("adapter", self._origin(form, "LoRA"), tuned.adapter, names, encode, loads)

    def _certificate(
        self, kind: Kind, origin: Origin, folder: Path, names: list[str], encode: Encode | None,
        loads: Callable[[], _Exported],
    ) -> Certificate:  # fmt: skip
        tokens = None if encode is None else self._compare_tokens(encode)
        measured = self._measure(loads) if self._effort.is_measured else None
        notes = self._tuned.notes + (self.known.notes if self.known else ())
        return Certificate(
            kind, origin, tokens, measured, hash_files(folder, names), _versions(self._device, kind), notes
        )

    def _compare_tokens(self, encode: Encode) -> Tokens:
        opened = open_tokenizer(self._tuned.model, self._tuned.revision)
        format = _format(self._tuned, opened.bos)
        # No dialogue is too long, so none is cut.
        encoder = Encoder(opened.tokenizer.backend_tokenizer.to_str(), opened.end_id, 2**31, format)
        return compare_tokens(encoder, self._dialogues, encode)

    def _measure(self, loads: Callable[[], _Exported]) -> Measured:
        if self.known is None:
            self.known = self._measure_trained()
            _release()
        known, tell = self.known, self.on_progress
        exported = loads()
        with Engine(exported.model, known.encoder, exported.precision, exported.path) as engine:
            predict = partial(target_log_probs, exported.model, precision=exported.precision)
            export = drift(predict, known.reference, known.asked, "export", tell)
            replies = compare_replies(
                greedy_replies(engine, known.asked, "export", tell), known.reference.replies, known.asked
            )
        how = exported.how
        del exported, engine, predict
        _release()
        return Measured(
            f"the adapter on {_FORMS[self._tuned.reference_form]}", how, self._tuned.data, len(known.asked.dialogues),
            known.asked.num_replies, known.asked.num_tokens, known.reference.likelihoods.perplexity(), export,
            known.base, known.others, replies,
        )  # fmt: skip

    def _measure_trained(self) -> Known:
        """Measure the adapter on the base of its training and, if asked for, on the base as stored."""
        encoder, asked, reference, alone = self._read_trained()
        if alone is None:
            _release()
            plain = self._load_base(self._tuned.reference_form)
            predict = partial(target_log_probs, plain.model, precision=plain.precision)
            alone = drift(predict, reference, asked, "base", self.on_progress)
            del plain, predict
        others: dict[str, Drift] = {}
        notes: tuple[str, ...] = ()
        if self._compares_forms and self._tuned.trained_on == "nf4":
            _release()
            others, notes = self._measure_stored(reference, asked)
        return Known(encoder, asked, reference, alone, others, notes)

    def _read_trained(self) -> tuple[Encoder, Questions, Reference, Drift | None]:
        """Measure the adapter as trained, and the base alone; None for an adapter that can't be switched off."""
        tuned, effort, tell = self._tuned, self._effort, self.on_progress
        base = self._load_base(tuned.reference_form)
        encoder = setup.make_encoder(base, tuned.max_tokens, _format(tuned, base.bos))
        asked = questions(encoder, self._dialogues, effort.num_replies, effort.max_new_tokens)
        if not asked.dialogues:
            raise FalconerError(
                f"None of the {len(self._dialogues)} dialogues fits into {encoder.max_tokens} tokens.",
                "Export without measuring: --no-measure.",
            )
        model = load_adapter(base.model, tuned.adapter)
        with Engine(model, encoder, base.precision) as engine:
            reference = read_reference(engine, asked, tell)
        # One that changes the base's own biases.
        if getattr(model.active_peft_config, "bias", "none") != "none":
            return encoder, asked, reference, None
        predict = partial(target_log_probs, model, precision=base.precision)
        with without_adapter(model):
            return encoder, asked, reference, drift(predict, reference, asked, "base", tell)

    def _measure_stored(self, reference: Reference, asked: Questions) -> tuple[dict[str, Drift], tuple[str, ...]]:
        """Measure the adapter on the base as stored; or say why that can't be done."""
        size = 2 if self._dtype == "bf16" or (self._dtype == "auto" and self._device.type == "cuda") else 4
        needed, free = 1.2 * size * self._num_parameters / 2**30, runtime.free_gib(self._device)
        if needed > free:
            return {}, (f"the base as stored was not measured: it needs {needed:.1f} GiB, and {free:.1f} are free",)
        base = self._load_base("bf16")
        model = load_adapter(base.model, self._tuned.adapter)
        predict = partial(target_log_probs, model, precision=base.precision)
        return {"bf16": drift(predict, reference, asked, "base as stored", self.on_progress)}, ()

    def _load_base(self, form: Form) -> LoadedModel:
        with self._tuned.same_base():
            return load_model(
                self._tuned.model, revision=self._tuned.revision, quantization="nf4" if form == "nf4" else "none",
                dtype=self._dtype, device=self._tuned.device,
            )  # fmt: skip

    def _load_folder(self, folder: Path) -> _Exported:
        loaded = load_model(str(folder), quantization="none", dtype=self._dtype, device=self._tuned.device)
        return _Exported(loaded.model, loaded.precision, _how(loaded.precision))

    def _origin(self, form: Form, format: str) -> Origin:
        tuned = self._tuned
        # Where a folder stood on this machine says nothing elsewhere.
        named = None if os.path.isdir(tuned.model) else tuned.model
        return Origin(
            named, tuned.revision, stated_license(self._folder), form, tuned.trained_on,
            sha256(tuned.adapter / WEIGHTS), format,
        )  # fmt: skip


def _format(tuned: Tuned, bos: str) -> PromptFormat:
    # As `conversation_of` has it for an adapter that no falconer trained.
    return tuned.format or PromptFormat(bos=bos, multi_line=True)


def _how(precision: runtime.Precision) -> str:
    return f"transformers, {precision.name}"


def _versions(device: torch.device, kind: Kind) -> dict[str, str]:
    found = runtime.environment(device)
    # The kernel of the machine is nobody's business.
    del found["platform"]
    return found | ({"gguf": runtime.metadata_version("gguf")} if kind.startswith("gguf") else {})


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
