"""In which mode a run trains: on which path, in which numbers its frozen products are, and what it keeps in memory.

What follows from the hardware is asked of `runtime`; what a batch needs is measured with the run's largest one.
"""

import gc
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from falconer import runtime
from falconer.errors import FalconerError
from falconer.model.falcon.attach import disable, enable
from falconer.model.falcon.four_bit import unpacked_gib
from falconer.model.falcon.layout import why_generic

# Share of the device's memory that a probe may take: a real step meets fragments, and AdamW's moments come on top.
MOST_MEMORY = 0.93
# Share of the system's free memory that unpacked weights may take: others live there too.
MOST_OF_A_CPU = 0.25


@dataclass(frozen=True, slots=True)
class Mode:
    """What was chosen, each with its reason, as run.json records it.

    Args:
        path: "falcon" (its own forward and backward pass) or "generic" (the model's own).
        compute: number format of the frozen products: "fp8", "bf16" or "fp32".
        memory: "fast" keeps what the forward pass made, "lean" makes it again.
        holds_weights: unpacked 4-bit weights are kept (the falcon path alone).
    """

    path: str
    why_path: str
    compute: str
    why_compute: str
    memory: str
    why_memory: str
    holds_weights: bool

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> tuple[str, str, str]:
        """Return what a user is told of path, frozen products and memory."""
        kept = "; dequantised weights are cached" if self.holds_weights else ""
        return (
            f"{self.path}: {self.why_path}", f"{self.compute}: {self.why_compute}",
            f"{self.memory}{kept}: {self.why_memory}",
        )  # fmt: skip


def choose_mode(
    model: Any, precision: runtime.Precision, device: torch.device, *, path: str, compute: str, memory: str,
    try_batch: Callable[[], object], num_tokens: int,
) -> Mode:  # fmt: skip
    """Choose the mode of a run and put the model into it.

    Args:
        model: with its adapter, in training mode.
        path, compute, memory: as configured; "auto" decides here.
        try_batch: forward and backward pass of the run's largest micro-batch, which has `num_tokens`.

    Raises:
        FalconerError: something was asked for that this model or device does not have.
    """
    reason = "as asked for" if path == "generic" else why_generic(model)
    falcon = not reason
    name, why_path = ("falcon", "the model has Falcon-7B's layout") if falcon else ("generic", reason)
    compute, why_compute = _compute(compute, precision, device, falcon=falcon, why_path=why_path)
    for chosen, holds, why_memory in _candidates(memory, model, device, falcon=falcon):
        try:
            _put(model, falcon=falcon, fp8=compute == "fp8", memory=chosen, holds=holds)
            if device.type == "cuda":
                # Also where there is nothing to choose: kernels are compiled before the first step is timed.
                peak = _peak_gib(try_batch, device)
                why_memory = f"{why_memory}, {peak:.1f} GiB at the peak of {num_tokens:,} tokens, measured"
            return Mode(name, why_path, compute, why_compute, chosen, why_memory, holds)
        except torch.OutOfMemoryError:
            pass
        # Behind the except clause: inside it, the error's frames still hold what is to be freed.
        model.zero_grad(set_to_none=True)
        disable(model)
        free_memory(device)
    raise FalconerError(
        f"The largest micro-batch ({num_tokens:,} tokens) does not fit into this GPU's memory.",
        f"Lower train.micro_tokens below {num_tokens}, or data.max_tokens"
        + ("" if memory != "fast" else ", or set train.memory=auto") + ".",
    )  # fmt: skip


def free_memory(device: torch.device) -> None:
    """Give back what an abandoned pass left behind."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _compute(
    asked: str, precision: runtime.Precision, device: torch.device, *, falcon: bool, why_path: str
) -> tuple[str, str]:
    fp8 = runtime.has_fp8(device)
    if asked == "fp8":
        if not fp8:
            raise FalconerError(
                f"train.compute=fp8, but {runtime.device_name(device)} has no FP8 units.",
                "They come with compute capability 8.9 (Ada, Hopper); use train.compute=auto.",
            )
        if not falcon:
            raise FalconerError(
                f"train.compute=fp8 needs the falcon path, and it can't be taken: {why_path}.",
                "Use train.compute=auto.",
            )
        return "fp8", "as asked for"
    if asked == "bf16":
        if precision.dtype != torch.bfloat16:
            raise FalconerError(
                f"train.compute=bf16, but the arithmetic is {precision.name} ({precision.reason}).",
                "Set model.dtype=bf16 as well, or use train.compute=auto.",
            )
        return "bf16", "as asked for"
    if fp8 and falcon:
        return "fp8", "this GPU has FP8 units, and the base is frozen"
    return precision.name, "the falcon path alone has FP8 products" if fp8 else precision.reason


def _candidates(asked: str, model: Any, device: torch.device, *, falcon: bool) -> Iterator[tuple[str, bool, str]]:
    """Yield (memory, whether unpacked weights are kept, why), the fastest first; on a GPU each is tried."""
    if asked == "lean":
        yield "lean", False, "as asked for"
        return
    on_gpu = device.type == "cuda"
    why = "as asked for" if asked == "fast" else "it fits" if on_gpu else "a CPU has memory to spare"
    needed = unpacked_gib(model) if falcon else 0.0
    if needed and (on_gpu or needed < MOST_OF_A_CPU * runtime.memory_gib(device)[0]):
        yield "fast", True, why
    yield "fast", False, why
    if asked == "auto" and on_gpu:
        yield "lean", False, "all that a pass makes does not fit"


def _put(model: Any, *, falcon: bool, fp8: bool, memory: str, holds: bool) -> None:
    if falcon:
        enable(model, fp8=fp8, memory="lean" if memory == "lean" else "fast", hold=holds)
        return
    disable(model)
    if memory == "lean":
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_disable()


def _peak_gib(try_batch: Callable[[], object], device: torch.device) -> float:
    """Return the peak of one pass in GiB.

    Raises:
        torch.OutOfMemoryError: it does not fit, or leaves too little for what else a step needs.
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
