"""Choosing the mode of a run by trying: the first of `ways.ways` in which its largest micro-batch fits."""

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from falconer import runtime
from falconer.errors import FalconerError
from falconer.model.falcon.attach import disable, enable
from falconer.model.falcon.four_bit import dequantised_gib
from falconer.model.falcon.frozen_linear import is_nf4
from falconer.model.falcon.layout import backbone_of, layout_of, why_generic
from falconer.model.falcon.train_pass import Memory
from falconer.model.layers.replace import replace_layers, restore_layers
from falconer.train.ways import WHY_RECORDED, Asked, Facts, Mode, check_compute, ways

# Share of the device's memory that a trial may use: real steps also have fragmentation and AdamW's moments.
MOST_MEMORY = 0.93


def choose_mode(
    model: Any, precision: runtime.Precision, device: torch.device, asked: Asked, *, try_batch: Callable[[], object],
    num_tokens: Callable[[], int], record: Callable[[], str] = lambda: "the caller does not record",
    forget: Callable[[], None] = lambda: None,
) -> Mode:  # fmt: skip
    """Choose the mode of a run, and set the model up for it.

    Args:
        model: with its adapter, in training mode.
        asked: as configured; "auto" is decided here.
        try_batch: runs the forward and backward pass of the run's largest micro-batch.
        num_tokens: returns the tokens of that micro-batch, which may depend on the mode; called after a trial.
        record: tries to record that micro-batch as a CUDA graph, for a mode with recorded ones; returns why they can't
            be used, "" if they can.
        forget: gives back what was recorded.

    Raises:
        FalconerError: this model or device does not support what was configured, or no mode fits into memory.
    """
    facts = _facts(model, precision, device)
    check_compute(asked, facts, runtime.device_name(device))
    why_not = ""
    for mode in ways(asked, facts):
        try:
            if not _put(model, mode, precision):
                why_not = "its layers can't be falconer's own" if mode.recorded else why_not
                continue
            if device.type != "cuda":
                return mode
            # Also if there is nothing to choose, so that kernels are compiled before the first step is timed.
            peak = _peak_gib(try_batch, device)
            if mode.recorded:
                peak, why_not = _recorded_peak_gib(peak, record, device)
            if not (mode.recorded and why_not):
                measured = f"measured peak of {peak:.1f} GiB with {num_tokens():,} tokens"
                why_recorded = WHY_RECORDED if mode.recorded else why_not or mode.why_recorded
                return replace(mode, why_memory=f"{mode.why_memory}, {measured}", why_recorded=why_recorded)
        except torch.OutOfMemoryError:
            why_not = "memory does not suffice for recording" if mode.recorded else why_not
        # After the except clause: inside it, the traceback still references the tensors to be freed.
        forget()
        model.zero_grad(set_to_none=True)
        disable(model)
        restore_layers(model)
        free_memory(device)
    raise FalconerError(
        f"The largest micro-batch ({num_tokens():,} tokens) does not fit into this GPU's memory.",
        f"Lower train.micro_tokens below {num_tokens()}, or data.max_tokens"
        + ("" if asked.memory != "fast" else ", or set train.memory=auto") + ".",
    )  # fmt: skip


def _recorded_peak_gib(plain_gib: float, record: Callable[[], str], device: torch.device) -> tuple[float, str]:
    """Return the peak of recording a micro-batch in GiB, and why that can't be used, "" if it can.

    Raises:
        torch.OutOfMemoryError: it can't be recorded beside a pass as usual, which a shape has before it is recorded.
    """
    reasons: list[str] = []
    peak = max(plain_gib, _peak_gib(lambda: reasons.append(record()), device))
    # Of the pass as usual, which is not needed while graphs are replayed.
    free_memory(device)
    return peak, reasons[0]


def free_memory(device: torch.device) -> None:
    """Free the memory of an abandoned pass."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _facts(model: Any, precision: runtime.Precision, device: torch.device) -> Facts:
    generic, on_gpu = why_generic(model), device.type == "cuda"
    return Facts(
        generic, "" if generic else layout_of(backbone_of(model).config).why_fast, precision,
        runtime.has_fp8(device), on_gpu, dequantised_gib=0.0 if generic else dequantised_gib(model),
        # On a GPU it is tried instead.
        free_gib=0.0 if on_gpu else runtime.memory_gib(device)[0],
        is_quantised=any(is_nf4(module) for module in model.modules()),
    )  # fmt: skip


def _put(model: Any, mode: Mode, precision: runtime.Precision) -> bool:
    """Set a model up for a mode; return False if its layers can't be falconer's own, as the mode wants them."""
    restore_layers(model)
    if mode.path == "fast":
        memory: Memory = "lean" if mode.memory == "lean" else "fast"
        enable(model, fp8=mode.compute == "fp8", memory=memory, cache_weights=mode.caches_weights)
        return True
    disable(model)
    if mode.memory == "lean":
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_disable()
    return not mode.own_layers or not replace_layers(model, precision.autocast)


def _peak_gib(try_batch: Callable[[], object], device: torch.device) -> float:
    """Return the peak of one pass in GiB.

    Raises:
        torch.OutOfMemoryError: it does not fit, or leaves too little memory for the rest of a step.
    """
    free_memory(device)
    torch.cuda.reset_peak_memory_stats(device)
    try_batch()
    runtime.synchronize(device)
    reserved = torch.cuda.max_memory_reserved(device)
    free, _ = torch.cuda.mem_get_info(device)
    available = min(free + torch.cuda.memory_reserved(device), runtime.memory_cap(device))
    if reserved > MOST_MEMORY * available:
        raise torch.OutOfMemoryError
    return runtime.peak_memory_gib(device)
