"""Merging an adapter into the weights of its base, one tensor at a time, in fp32."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import Conv1D

from falconer import runtime
from falconer.data.prompt import PromptFormat
from falconer.errors import FalconerError
from falconer.files.disk_errors import rust_disk_errors
from falconer.files.replace import replace_folder, sha256
from falconer.model.export.adapter import Adapter, read_adapter
from falconer.model.export.base import Base, open_base
from falconer.model.export.folder import (
    Conversation,
    check_out,
    conversation_of,
    stated_license,
    write_config,
    write_record,
    write_tokenizer,
)
from falconer.model.export.nf4 import quantised_weights, through_nf4
from falconer.model.export.weights import SHARD_BYTES, write_shards
from falconer.model.lora import WEIGHTS


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge wrote.

    Args:
        files: the weights.
        num_tensors: how many there are; the adapter changed `num_changed`, and `num_through_nf4` were quantised and
            dequantised first.
        is_untied: head and embedding shared one weight in the base and no longer do, because the adapter changes one.
    """

    folder: Path
    files: tuple[Path, ...]
    num_tensors: int
    num_changed: int
    num_through_nf4: int
    is_untied: bool
    num_bytes: int


def merge_adapter(
    model: str, adapter: Path, out: Path, *, base: Literal["bf16", "nf4"] = "bf16", dtype: torch.dtype | None = None,
    revision: str | None = None, format: PromptFormat | None = None, device: str = "auto",
) -> Merged:  # fmt: skip
    """Write a plain Hugging Face folder that holds the tuned model; an earlier export is replaced when all is written.

    Args:
        model: the base: a folder, a hub name, or "falcon-mini".
        adapter: a folder as PEFT or falconer saves it.
        base: the weights that the adapter is added to: "bf16" as they are stored, "nf4" as 4 bits held them in
            training.
        dtype: of the written weights, and in "nf4" of the weights that were quantised (a run's precision); None: as the
            base stores each.
        format: of the run's prompts; None: as the adapter's folder records it.
        device: where the sums are made: "auto", "cpu" or "cuda".

    Raises:
        FalconerError: no such base or adapter, they do not fit, the adapter is of a kind that can't be merged (named),
            a merged weight is not finite, `out` holds something else than an export, or the disk is full (what was
            there stays).
    """
    check_out(out)
    merge = prepare_merge(model, adapter, base=base, dtype=dtype, revision=revision, format=format, device=device)
    return merge.write(out)


def prepare_merge(
    model: str, adapter: Path, *, base: Literal["bf16", "nf4"], dtype: torch.dtype | None, revision: str | None,
    format: PromptFormat | None, device: str,
) -> "Merge":  # fmt: skip
    """Check what is merged, and return what writes it; see `merge_adapter`.

    Raises:
        FalconerError: no such base or adapter, they do not fit, or the adapter is of a kind that can't be merged.
    """
    if base not in ("bf16", "nf4"):
        raise FalconerError(f"base={base}: an adapter is merged into 'bf16' or 'nf4'.", "Give the one or the other.")
    opened = open_base(model, revision)
    change = read_adapter(adapter, opened.skeleton)
    conversation = conversation_of(opened, adapter, format)
    through = quantised_weights(opened.skeleton) if base == "nf4" else frozenset()
    weights = _Merge(opened, change, through, dtype, runtime.pick_device(device))
    return Merge(weights, adapter, conversation, _made_of(opened, adapter, base, revision))


@dataclass(frozen=True, slots=True)
class Merge:
    """A merge that has been checked and can be written.

    Args:
        weights: gives each merged weight.
        made_of: of what, for the folder's record.
    """

    weights: "_Merge"
    adapter: Path
    conversation: Conversation
    made_of: dict[str, str | None]

    def write(self, out: Path, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Merged:
        """Write the folder.

        Args:
            on_progress: called with (tensors written, total).

        Raises:
            FalconerError: see `merge_adapter`.
        """
        opened, merge, dtype = self.weights.base, self.weights, self.weights.dtype
        untied = _untied(opened, merge.change)
        sources = {name: name for name in opened.stored} | untied
        names = {opened.saved_name(name): name for name in _in_order(opened, sources)}
        plan = [(saved, merge.num_bytes(sources[name])) for saved, name in names.items()]
        made = 0

        def make(saved: str) -> torch.Tensor:
            nonlocal made
            on_progress(made, len(plan))
            made += 1
            return merge.tensor(names[saved], sources[names[saved]])

        with replace_folder(out) as aside, rust_disk_errors():
            is_tied = bool(opened.tied) and not untied
            write_config(aside, opened, self.conversation, is_tied=is_tied, dtype=_name(dtype or merge.common_dtype()))
            write_tokenizer(aside, self.conversation.tokenizer)
            write_record(aside, self.adapter, self.conversation, self.made_of)
            files = write_shards(aside, plan, make, SHARD_BYTES)
        on_progress(len(plan), len(plan))
        return Merged(
            folder=out,
            files=tuple(out / file.name for file in files),
            num_tensors=len(plan),
            num_changed=len(merge.change.changed),
            num_through_nf4=len(merge.through),
            is_untied=bool(untied),
            num_bytes=sum(size for _, size in plan),
        )


def _made_of(opened: Base, adapter: Path, base: str, revision: str | None) -> dict[str, str | None]:
    return {
        "kind": "merged",
        "base_form": base,
        # Where a folder stood on this machine says nothing elsewhere.
        "base_model": None if os.path.isdir(opened.name) else opened.name,
        "base_revision": revision,
        "base_license": stated_license(opened.folder),
        "adapter_sha256": sha256(adapter / WEIGHTS),
    }


@dataclass(frozen=True, slots=True)
class _Merge:
    base: Base
    change: Adapter
    through: frozenset[str]
    dtype: torch.dtype | None
    device: torch.device

    def tensor(self, name: str, source: str) -> torch.Tensor:
        """Return a merged parameter, which begins as the base's `source`."""
        stored = self.base.read(source)
        if source in self.change.base_replaced:
            stored = self.change.base_replaced[source].to(stored.dtype)
        goal = self._goal(stored.dtype)
        if name in self.change.replaced:
            return _finite(name, self.change.replaced[name].to(goal))
        weight = stored.to(self.device)
        if name in self.through:
            is_conv = isinstance(self.base.skeleton.get_submodule(name.removesuffix(".weight")), Conv1D)
            weight = through_nf4(weight.to(goal), transposed=is_conv)
        if name in self.change.loras:
            weight = self.change.loras[name].merged(weight)
        if name in self.change.bias_changes:
            weight = weight.float() + self.change.bias_changes[name].to(self.device)
        return _finite(name, weight.to(goal).cpu())

    def num_bytes(self, source: str) -> int:
        stored = self.base.weights.stored[self.base.stored[source]]
        return stored.num_bytes // stored.dtype.itemsize * self._goal(stored.dtype).itemsize

    def common_dtype(self) -> torch.dtype:
        """Return the format of most of the base's values."""
        sizes: dict[torch.dtype, int] = {}
        for stored in self.base.weights.stored.values():
            if stored.dtype.is_floating_point:
                sizes[stored.dtype] = sizes.get(stored.dtype, 0) + stored.num_bytes
        return max(sizes, key=lambda dtype: sizes[dtype])

    def _goal(self, stored: torch.dtype) -> torch.dtype:
        return self.dtype if self.dtype is not None and stored.is_floating_point else stored


def _untied(base: Base, change: Adapter) -> dict[str, str]:
    """Return the tied parameters that must be written beside the weight they shared, and that weight's name.

    A LoRA on the head, or on the embedding, is that layer's alone: the other one keeps the base's weight.
    """
    alone = {*change.loras, *change.replaced}
    return {target: source for target, source in base.tied.items() if target in alone or source in alone}


def _in_order(base: Base, sources: dict[str, str]) -> list[str]:
    """Return the parameters in the model's order, then what its files hold beside them."""
    known = [name for name in base.skeleton.state_dict() if name in sources]
    return known + sorted(set(sources) - set(known))


def _finite(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise FalconerError(
            f"The merged weight {name} contains NaN, or values that are too large for {_name(tensor.dtype)}.",
            "Use another checkpoint, or a wider format (fp32).",
        )
    return tensor


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
