"""The ways in which a run can train, in their order: on which path, in which precision, with what kept in memory.

`mode.choose_mode` tries them on the device and takes the first that fits; `forecast.plan_run` predicts what each needs
and takes the first that would. What they choose from is one list.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import torch

from falconer import runtime
from falconer.errors import FalconerError

# Share of the system's free memory that dequantised weights may take on a CPU: others live there too.
MOST_OF_A_CPU = 0.25
# What run.json calls the fast path, as it did from the first version on.
RECORDED_PATH: Mapping[str, str] = MappingProxyType({"fast": "falcon", "generic": "generic"})


@dataclass(frozen=True, slots=True)
class Asked:
    """What the configuration asks for; "auto" leaves it to the device.

    Args:
        path: "auto" or "generic".
        compute: "auto", "bf16" or "fp8".
        memory: "auto", "fast" or "lean".
    """

    path: str
    compute: str
    memory: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What the ways depend on beside the configuration.

    Args:
        why_generic: why the fast path can't run this model on this device; "" if it can.
        precision: of the model's values.
        has_fp8: the device multiplies in FP8.
        on_gpu: else a CPU.
        dequantised_gib: what all 4-bit weights take when they are dequantised; 0 where there are none.
        free_gib: free memory; asked of a CPU alone.
    """

    why_generic: str
    precision: runtime.Precision
    has_fp8: bool
    on_gpu: bool
    dequantised_gib: float
    free_gib: float


@dataclass(frozen=True, slots=True)
class Mode:
    """One way to train, each choice with its reason.

    Args:
        path: "fast" (Falcon's own forward and backward pass) or "generic" (the model's own).
        compute: precision of the base matmuls: "fp8", "bf16" or "fp32".
        memory: "fast" keeps what the forward pass made, "lean" makes it again.
        caches_weights: dequantised 4-bit weights are kept (the fast path alone).
    """

    path: str
    why_path: str
    compute: str
    why_compute: str
    memory: str
    why_memory: str
    caches_weights: bool

    def record(self) -> dict[str, Any]:
        """Return it as run.json has it."""
        record = asdict(self)
        record["holds_weights"] = record.pop("caches_weights")
        return record | {"path": RECORDED_PATH[self.path]}

    def lines(self) -> tuple[str, str, str]:
        """Return what a user is told of path, base matmuls and memory."""
        cached = "; dequantised weights are cached" if self.caches_weights else ""
        return (
            f"{self.path}: {self.why_path}", f"{self.compute}: {self.why_compute}",
            f"{self.memory}{cached}: {self.why_memory}",
        )  # fmt: skip


def ways(asked: Asked, facts: Facts) -> list[Mode]:
    """Return every way that may be taken, the fastest first; at least one.

    A precision that this device or path does not have is left to the device, see `check_compute`.
    """
    path, why_path = _path(asked, facts)
    compute, why_compute = _compute(asked.compute, facts, is_fast=path == "fast")

    def mode(memory: str, why: str, caches_weights: bool = False) -> Mode:
        return Mode(path, why_path, compute, why_compute, memory, why, caches_weights)

    if asked.memory == "lean":
        return [mode("lean", "as configured")]
    why = "as configured" if asked.memory == "fast" else "it fits" if facts.on_gpu else "a CPU has memory to spare"
    found = [mode("fast", why)]
    needed = facts.dequantised_gib if path == "fast" else 0.0
    if needed and (facts.on_gpu or needed < MOST_OF_A_CPU * facts.free_gib):
        found.insert(0, mode("fast", why, caches_weights=True))
    if asked.memory == "auto" and facts.on_gpu:
        found.append(mode("lean", "all that a pass makes does not fit"))
    return found


def check_compute(asked: Asked, facts: Facts, device: str) -> None:
    """Refuse a precision of the base matmuls that was asked for and can't be had.

    Args:
        device: its name.

    Raises:
        FalconerError: saying what is missing.
    """
    path, why_path = _path(asked, facts)
    if asked.compute == "fp8" and not facts.has_fp8:
        raise FalconerError(
            f"train.compute=fp8, but {device} has no FP8 units.",
            "They come with compute capability 8.9 (Ada, Hopper); use train.compute=auto.",
        )
    if asked.compute == "fp8" and path != "fast":
        raise FalconerError(
            f"train.compute=fp8 needs the fast path, and it can't be taken: {why_path}.", "Use train.compute=auto."
        )
    if asked.compute == "bf16" and facts.precision.dtype != torch.bfloat16:
        raise FalconerError(
            f"train.compute=bf16, but the precision is {facts.precision.name} ({facts.precision.reason}).",
            "Set model.dtype=bf16 as well, or use train.compute=auto.",
        )


def _path(asked: Asked, facts: Facts) -> tuple[str, str]:
    if asked.path == "generic":
        return "generic", "as configured"
    return ("generic", facts.why_generic) if facts.why_generic else ("fast", "the model has Falcon-7B's layout")


def _compute(asked: str, facts: Facts, is_fast: bool) -> tuple[str, str]:
    precision, can_fp8 = facts.precision, facts.has_fp8 and is_fast
    if (asked == "fp8" and can_fp8) or (asked == "bf16" and precision.dtype == torch.bfloat16):
        return asked, "as configured"
    if can_fp8:
        return "fp8", "this GPU has FP8 units, and the base is frozen"
    return precision.name, "the fast path alone has FP8 matmuls" if facts.has_fp8 else precision.reason
