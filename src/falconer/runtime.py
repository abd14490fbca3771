"""The machine: device, precision, random seeds, memory, library versions, and environment variables.

No other module reads environment variables, except `launcher.py` for the rank.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    """The precision of a computation, and why it was chosen."""

    dtype: torch.dtype
    reason: str

    @property
    def name(self) -> str:
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"

    @property
    def autocast(self) -> torch.dtype | None:
        """The dtype for `autocast`; None if the model runs in the dtype of its weights."""
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
        return Precision(torch.bfloat16 if requested == "bf16" else torch.float32, "as configured")
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if major >= 8:
            return Precision(torch.bfloat16, f"compute capability {major}.{minor} supports bf16")
        return Precision(torch.float32, f"compute capability {major}.{minor} does not support bf16")
    if torch.cpu.get_capabilities().get("amx_bf16"):
        return Precision(torch.bfloat16, "the CPU has amx_bf16")
    # avx512_bf16 alone does not suffice: its matmuls ran at half the speed of fp32 (docs/LOG.md, CPU arithmetic).
    return Precision(torch.float32, "the CPU has no amx_bf16, so fp32 is faster")


def has_fp8(device: torch.device) -> bool:
    """Return whether a device supports FP8 matmuls: compute capability 8.9 (Ada, Hopper) and later."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def autocast(device_type: str, dtype: torch.dtype | None) -> torch.autocast:
    """Return the context in which a model runs with the precision `dtype`; None: that of its weights."""
    return torch.autocast(device_type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def local_rank() -> int:
    """Return this process's GPU number as the launcher (torchrun, accelerate launch) set it."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def one_gpu_environment(**others: str) -> dict[str, str]:
    """Return the environment variables of a process that uses the first of this process's GPUs alone.

    Args:
        others: variables that it gets as well.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return os.environ | {"CUDA_VISIBLE_DEVICES": visible} | others


def api_key() -> str | None:
    """Return the key that requests to the server must carry, None if there is none."""
    return os.environ.get("FALCONER_API_KEY")


@contextmanager
def share_metrics(folder: Path) -> Iterator[None]:
    """Let processes that are started meanwhile keep their figures for Prometheus in a folder that they share."""
    # prometheus_client looks at it when it is imported.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    try:
        yield
    finally:
        del os.environ["PROMETHEUS_MULTIPROC_DIR"]


def allow_open_files(number: int) -> None:
    """Let this process have so many files and connections open, or as many as the system lets it allow itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number if hard == resource.RLIM_INFINITY else min(number, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def kernel_cache() -> Path | None:
    """Return the folder of compiled CUDA kernels in the user's cache, None if the user has no home."""
    try:
        # The XDG Base Directory Specification: a relative path counts as unset.
        cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
        return (cache if cache.is_absolute() else Path.home() / ".cache") / "falconer" / "kernels"
    except RuntimeError:
        return None


def is_offline() -> bool:
    """Return whether the hub must not be contacted."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}


def hub_is_reachable(timeout_s: float = 3.0) -> bool:
    """Return whether the hub answers, without the 20 seconds of retries of its own library; False if `is_offline`."""
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
    """Turn off the libraries' progress bars, and their warnings about what falconer checks itself."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("BITSANDBYTES_NOWELCOME", "1")
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    # Without a network the hub's library prints a line for each retry; our error message appears once.
    hub_logging.set_verbosity_error()
    # If the first backward pass begins with a matmul, autograd's thread has no CUDA context yet; torch sets it and
    # warns.
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


def num_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gib(device: torch.device) -> tuple[float, float]:
    """Return (free, total) memory of a device in GiB; on the CPU, free is what is available without swapping."""
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
    """Return the GiB still available for tensors; memory that torch has reserved on a GPU but does not use is free."""
    free, _ = memory_gib(device)
    if device.type != "cuda":
        return free
    reserved, used = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    return min(free + (reserved - used) / 2**30, (memory_cap(device) - used) / 2**30)


def memory_cap(device: torch.device) -> float:
    """Return how many bytes of a GPU this process may use, given torch's `set_per_process_memory_fraction`."""
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.get_per_process_memory_fraction(index) * torch.cuda.mem_get_info(index)[1]


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or "the CPU"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"


def has_c_compiler() -> bool:
    """Return whether Triton can build its kernel launchers, with $CC, gcc or clang."""
    return any(name and shutil.which(name) for name in (os.environ.get("CC"), "gcc", "clang"))


def nvidia_driver() -> str:
    """Return the version of the NVIDIA driver, "" if there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return answer.stdout.splitlines()[0].strip() if answer.returncode == 0 and answer.stdout.strip() else ""


def synchronize(device: torch.device) -> None:
    """Wait until the GPU has finished, so that a clock on the host measures its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_s(step: Callable[[], object], device: torch.device, runs: int, warmup: int) -> float:
    """Return the median time of a step in seconds, including the work on the device."""
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
    """Return the hardware and library versions for a run's record."""
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
