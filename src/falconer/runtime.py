"""What this machine is and what follows from it: device, precision and why, seeds, memory, versions.

It alone reads environment variables, but for the launcher's rank (`launcher.py`).
"""

import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from falconer.errors import FalconerError

RECORDED_PACKAGES = (
    "torch", "transformers", "peft", "accelerate", "bitsandbytes", "tokenizers", "safetensors", "triton",
    "sacrebleu", "rouge-score",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Precision:
    """The number format of a computation, and why it was chosen."""

    dtype: torch.dtype
    reason: str

    @property
    def name(self) -> str:
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"

    @property
    def autocast(self) -> torch.dtype | None:
        """What products are cast to, for `arithmetic`; None where they stay as the weights are."""
        return None if self.dtype == torch.float32 else self.dtype


def pick_device(requested: str) -> torch.device:
    """Return the device for "auto", "cpu" or "cuda"; under a launcher each rank gets its own GPU.

    Raises:
        FalconerError: "cuda" without a GPU.
    """
    if requested == "cuda" and not torch.cuda.is_available():
        raise FalconerError(
            "model.device=cuda, but torch sees no GPU.", "Use model.device=auto, or see: falconer doctor."
        )
    if requested == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank())


def pick_precision(requested: str, device: torch.device) -> Precision:
    """Return the precision for "auto", "bf16" or "fp32" on a device."""
    if requested != "auto":
        return Precision(torch.bfloat16 if requested == "bf16" else torch.float32, "as asked for")
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if major >= 8:
            return Precision(torch.bfloat16, f"compute capability {major}.{minor} has bf16 units")
        return Precision(torch.float32, f"compute capability {major}.{minor} has no bf16 units")
    if torch.cpu.get_capabilities().get("amx_bf16"):
        return Precision(torch.bfloat16, "the CPU has amx_bf16")
    # avx512_bf16 alone is no reason: its products ran at half the speed of fp32's (docs/LOG.md, CPU arithmetic).
    return Precision(torch.float32, "the CPU has no amx_bf16, without which fp32 is faster")


def has_fp8(device: torch.device) -> bool:
    """Tell whether a device multiplies in FP8: compute capability 8.9 (Ada, Hopper) and up."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def autocast(device_type: str, autocast: torch.dtype | None) -> torch.autocast:
    """Return the context in which a model runs in the number format `autocast`, or in its weights' own for None."""
    return torch.autocast(device_type, dtype=autocast or torch.bfloat16, enabled=autocast is not None)


def local_rank() -> int:
    """Return this process's GPU number as the launcher (torchrun, accelerate launch) set it."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_offline() -> bool:
    """Tell whether the hub must not be asked."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}


def hub_is_reachable(timeout_s: float = 3.0) -> bool:
    """Ask the hub for a sign of life; its own library would retry for some 20 seconds. False where it is_offline."""
    if is_offline():
        return False
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    from huggingface_hub import constants

    try:
        with urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=timeout_s):
            return True
    except HTTPError:
        return True
    except OSError:
        return False


def quiet_libraries() -> None:
    """Silence what libraries print in a normal run: their progress bars, and warnings that our own checks replace."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("BITSANDBYTES_NOWELCOME", "1")
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    # Without a network the hub's library prints a line for each of its retries; our error says it once.
    hub_logging.set_verbosity_error()
    # The first backward pass that begins with a matrix product finds no CUDA context in autograd's own thread; torch
    # sets it, goes on, and says so.
    warnings.filterwarnings("ignore", message="Attempting to run cuBLAS, but there was no current CUDA context")
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def peak_memory_gib(device: torch.device) -> float:
    """Return the peak so far in GiB: of tensors on a GPU, of the whole process on the CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**30
    # Linux counts KiB, macOS bytes.
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / (2**30 if sys.platform == "darwin" else 2**20)


def memory_gib(device: torch.device) -> tuple[float, float]:
    """Return (free, total) memory of a device in GiB; on the CPU free is what the system can give without swapping."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return free / 2**30, total / 2**30
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        sizes = dict(line.split()[:2] for line in meminfo.read_text(encoding="ascii").splitlines())
        return int(sizes["MemAvailable:"]) / 2**20, int(sizes["MemTotal:"]) / 2**20
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return whole, whole


def free_gib(device: torch.device) -> float:
    """Return the GiB that tensors may still take of a device; what torch has reserved on a GPU and not used is free."""
    free, _ = memory_gib(device)
    if device.type != "cuda":
        return free
    reserved, used = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    return min(free + (reserved - used) / 2**30, (memory_cap(device) - used) / 2**30)


def memory_cap(device: torch.device) -> float:
    """Return the bytes that this process may take of a GPU: all, or torch's `set_per_process_memory_fraction` of it."""
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.get_per_process_memory_fraction(index) * torch.cuda.mem_get_info(index)[1]


def device_name(device: torch.device) -> str:
    """Return what a GPU calls itself, "the CPU" for the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"


def has_c_compiler() -> bool:
    """Tell whether Triton can build the launchers of its kernels: it takes $CC, gcc or clang."""
    return any(name and shutil.which(name) for name in (os.environ.get("CC"), "gcc", "clang"))


def nvidia_driver() -> str:
    """Return the NVIDIA driver's version, "" where there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return answer.stdout.splitlines()[0].strip() if answer.returncode == 0 and answer.stdout.strip() else ""


def synchronize(device: torch.device) -> None:
    """Wait for the GPU's work, so that a host clock tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_s(step: Callable[[], object], device: torch.device, runs: int, warmup: int) -> float:
    """Return the median time of a step in seconds, the device's work included."""
    for _ in range(warmup):
        step()
    times = []
    for _ in range(runs):
        synchronize(device)
        started = time.perf_counter()
        step()
        synchronize(device)
        times.append(time.perf_counter() - started)
    return sorted(times)[runs // 2]


def environment(device: torch.device) -> dict[str, str]:
    """Return what a run's record says about hardware and versions."""
    record = {
        "falconer": metadata_version("falconer"),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    record |= {name: metadata_version(name) for name in RECORDED_PACKAGES}
    if device.type == "cuda":
        record["device"] = torch.cuda.get_device_name(device)
        record["cuda"] = str(torch.version.cuda)
    else:
        capabilities = torch.cpu.get_capabilities()
        record["device"] = f"{capabilities.get('cpu_name', platform.machine())}, {torch.get_num_threads()} threads"
    return record


def metadata_version(package: str) -> str:
    """Return an installed package's version, or "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
