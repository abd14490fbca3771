"""The kernel for few rows on the CPU: its own source as a library, `on_cpu/ptx.cuh`, and a stand-in for its class."""

import ctypes
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from falconer.kernels import nf4_rows, reference
from falconer.kernels.formats import Nf4
from falconer.kernels.nf4_rows import RowProducts, Tiling
from falconer.kernels.nvrtc import CudaSource

HERE = Path(__file__).parent / "on_cpu"


class PlainRowKernel:
    """Stands in for `RowProducts` with plain torch.

    Args:
        refusal: what `why_not` says of every weight.
        goes_together: what `goes_with` says of any two.
    """

    def __init__(self, refusal: str = "", goes_together: bool = True) -> None:
        self._refusal, self._goes_together = refusal, goes_together
        self.launches: list[int] = []

    def why_not(self, weight: Nf4) -> str:
        return self._refusal

    def goes_with(self, one: Nf4, other: Nf4) -> bool:
        return self._goes_together

    def products(self, pairs: Sequence[tuple[torch.Tensor, Nf4]]) -> list[torch.Tensor]:
        self.launches.append(len(pairs))
        return [reference.nf4_product(x_MK, weight) for x_MK, weight in pairs]


class CpuKernel:
    """Stands in for `LoadedKernel`: a library for the CPU in place of a cubin."""

    def __init__(self, cubin: bytes, name: str, device: torch.device, shared_bytes: int) -> None:
        assert name == "nf4_rows" and shared_bytes <= 99 * 1024
        self._library = ctypes.CDLL(cubin.decode())

    def launch(self, num_blocks: int, num_threads: int, arguments: Sequence[Any], *, starts_early: bool) -> None:
        assert num_threads == self._library.num_threads()
        # A structure is passed by its address, as the driver takes it.
        given = [ctypes.byref(one) if isinstance(one, ctypes.Structure) else one for one in arguments]
        self._library.run_nf4_rows(ctypes.c_uint(num_blocks), *given)


def kernel_on_cpu(
    monkeypatch: pytest.MonkeyPatch, folder: Path, nested: bool, tiling: Tiling, num_groups: int = 4
) -> RowProducts:
    """Return `RowProducts` that builds the kernel's own source for the CPU, and runs that.

    Args:
        tiling: for each number of groups up to `num_groups`.
    """

    def built(nvrtc: Any, source: CudaSource, options: Sequence[str], cache: Path | None) -> bytes:
        definitions = [option for option in options if option.startswith("-D")]
        place = folder / "".join(definitions)
        place.mkdir()
        # The kernel's source includes what stands beside it: instructions for the CPU in place of those of a GPU.
        texts = {source.name: source.text} | {
            name: (HERE / name).read_text("utf-8") for name in ("ptx.cuh", "rows.cpp")
        }
        for name, text in texts.items():
            (place / name).write_text(text, "utf-8")
        command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", *definitions, "-o", "rows.so", "rows.cpp"]
        subprocess.run(command, cwd=place, check=True, capture_output=True, text=True)
        return str(place / "rows.so").encode()

    pretend_gpu(monkeypatch)
    monkeypatch.setattr(nf4_rows, "cached_cubin", built)
    monkeypatch.setattr(nf4_rows, "LoadedKernel", CpuKernel)
    return RowProducts(torch.device("cpu"), nested, None, [tiling] * num_groups)


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, multiprocessors: int = 3) -> None:
    """Pretend that there is a GPU of compute capability 8.6, and an NVRTC for it."""
    nvrtc = SimpleNamespace(architectures=(80, 86, 90), version="13.0")
    properties = SimpleNamespace(multi_processor_count=multiprocessors)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(nf4_rows, "Nvrtc", lambda _: nvrtc)
