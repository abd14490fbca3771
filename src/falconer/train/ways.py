"""The possible modes of a training, fastest first: path, precision of the base matmuls, and memory mode.

`mode.choose_mode` tries them on the device and uses the first that fits; `forecast.plan_run` predicts the memory of
each and uses the first that should fit.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

import torch

from falconer import runtime
from falconer.errors import FalconerError

# Share of the system's free memory that dequantised weights may use on a CPU, as other programs need memory, too.
MOST_OF_A_CPU = 0.25
# Of a trial.
WHY_RECORDED = "a micro-batch gave the same loss and gradient as one that is not recorded"
# The names of the paths in run.json, which are those of the first version.
RECORDED_PATH: Mapping[str, str] = MappingProxyType({"fast": "falcon", "generic": "generic"})


@dataclass(frozen=True, slots=True)
class Asked:
    """The configured path, precision and memory mode; "auto" decides by model and device.

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
    """The properties of model and device that the possible modes depend on.

    Args:
        why_generic: why the fast path can't run this model on this device; "" if it can.
        why_fast: the reason for using it if it can.
        precision: the precision of the computation.
        has_fp8: the device supports FP8 matmuls.
        on_gpu: the device is a GPU, not a CPU.
        dequantised_gib: the size of all 4-bit weights when dequantised; 0 if there are none.
        free_gib: free memory; only used on a CPU.
        is_quantised: the base is in 4 bits.
    """

    why_generic: str
    why_fast: str
    precision: runtime.Precision
    has_fp8: bool
    on_gpu: bool
    dequantised_gib: float
    free_gib: float
    is_quantised: bool = False


@dataclass(frozen=True, slots=True)
class Mode:
    """One mode of training, with the reason for each choice.

    Args:
        path: "fast" (Falcon's own forward and backward pass) or "generic" (the model's own).
        compute: precision of the base matmuls: "fp8", "bf16" or "fp32".
        memory: "fast" stores the activations of the forward pass, "lean" recomputes them.
        caches_weights: dequantised 4-bit weights are cached (only on the fast path).
        own_layers: falconer's own layers, which store less (only on the generic path of a GPU).
        recorded: micro-batches are CUDA graphs (only with own layers); `why_recorded` says why or why not, "" where
            nothing of a run depends on it.
    """

    path: str
    why_path: str
    compute: str
    why_compute: str
    memory: str
    why_memory: str
    caches_weights: bool
    own_layers: bool = False
    recorded: bool = False
    why_recorded: str = ""

    def record(self) -> dict[str, Any]:
        """Return the mode as stored in run.json."""
        record = asdict(self)
        record["holds_weights"] = record.pop("caches_weights")
        return record | {"path": RECORDED_PATH[self.path]}

    def lines(self) -> tuple[str, str, str]:
        """Return the lines on path, base matmuls and memory that are printed."""
        cached = " (dequantised weights are cached)" if self.caches_weights else ""
        cached += " (with falconer's own layers)" if self.own_layers else ""
        graphs = f"; micro-batches are {'' if self.recorded else 'not '}CUDA graphs: {self.why_recorded}"
        return (
            f"{self.path}: {self.why_path}{graphs if self.why_recorded else ''}", f"{self.compute}: {self.why_compute}",
            f"{self.memory}{cached}: {self.why_memory}",
        )  # fmt: skip


def ways(asked: Asked, facts: Facts) -> list[Mode]:
    """Return every possible mode, the fastest first; at least one.

    If the configured precision is not supported, "auto" is used; `check_compute` reports this to the user.
    """
    path, why_path = _path(asked, facts)
    compute, why_compute = _compute(asked.compute, facts, is_fast=path == "fast")

    # Stock layers wait less for the host than own ones that are not recorded (docs/LOG.md), so these are for what does
    # not fit otherwise.
    has_own = path == "generic" and asked.path != "generic" and facts.on_gpu
    has_own = has_own and facts.precision.autocast is not None
    why_not = _why_not_recorded(asked, facts) if has_own else ""

    def mode(memory: str, why: str, caches_weights: bool = False, own_layers: bool = False) -> Mode:
        return Mode(
            path, why_path, compute, why_compute, memory, why, caches_weights, own_layers, why_recorded=why_not
        )  # fmt: skip

    if asked.memory == "lean":
        return [mode("lean", "as configured", own_layers=own) for own in ((False, True) if has_own else (False,))]
    why = (
        "as configured" if asked.memory == "fast" else "it fits" if facts.on_gpu else "a CPU usually has enough memory"
    )
    found = [mode("fast", why)]
    needed = facts.dequantised_gib if path == "fast" else 0.0
    if needed and (facts.on_gpu or needed < MOST_OF_A_CPU * facts.free_gib):
        found.insert(0, mode("fast", why, caches_weights=True))
    if has_own and not why_not:
        found.insert(0, replace(mode("fast", why, own_layers=True), recorded=True, why_recorded="it is tried first"))
    if has_own:
        found.append(mode("fast", "the activations of stock layers do not fit", own_layers=True))
    if asked.memory == "auto" and facts.on_gpu:
        found.append(mode("lean", "the activations of a pass do not fit"))
        if has_own:
            found.append(mode("lean", "the activations of stock layers do not fit", own_layers=True))
    return found


def check_compute(asked: Asked, facts: Facts, device: str) -> None:
    """Check that the configured precision of the base matmuls is supported.

    Args:
        device: the name of the device.

    Raises:
        FalconerError: it is not; the message says what is missing.
    """
    path, why_path = _path(asked, facts)
    if asked.compute == "fp8" and not facts.has_fp8:
        raise FalconerError(
            f"train.compute=fp8, but {device} does not support FP8.",
            "FP8 needs compute capability 8.9 or later (Ada, Hopper); use train.compute=auto.",
        )
    if asked.compute == "fp8" and path != "fast":
        raise FalconerError(
            f"train.compute=fp8 needs the fast path, which can't be used: {why_path}.", "Use train.compute=auto."
        )
    if asked.compute == "bf16" and facts.precision.dtype != torch.bfloat16:
        raise FalconerError(
            f"train.compute=bf16, but the precision is {facts.precision.name} ({facts.precision.reason}).",
            "Set model.dtype=bf16 as well, or use train.compute=auto.",
        )


def _why_not_recorded(asked: Asked, facts: Facts) -> str:
    """Return why micro-batches with own layers can't be CUDA graphs; "" if that may be tried."""
    if asked.memory == "lean":
        return "with train.memory=lean blocks are computed again"
    return "the base is in 4 bits" if facts.is_quantised else ""


def _path(asked: Asked, facts: Facts) -> tuple[str, str]:
    if asked.path == "generic":
        return "generic", "as configured"
    return ("generic", facts.why_generic) if facts.why_generic else ("fast", facts.why_fast)


def _compute(asked: str, facts: Facts, is_fast: bool) -> tuple[str, str]:
    precision, can_fp8 = facts.precision, facts.has_fp8 and is_fast
    if (asked == "fp8" and can_fp8) or (asked == "bf16" and precision.dtype == torch.bfloat16):
        return asked, "as configured"
    if can_fp8:
        return "fp8", "this GPU supports FP8, and the base is frozen"
    return precision.name, "FP8 matmuls need the fast path" if facts.has_fp8 else precision.reason
