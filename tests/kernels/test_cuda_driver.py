"""Loading and launching a kernel, with a driver that writes down what it is asked for."""

import ctypes
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from falconer.kernels import cuda_driver
from falconer.kernels.cuda_driver import DriverError, LoadedKernel

SOURCE = Path(__file__).parents[1] / "on_cpu" / "driver.cpp"
DEVICE = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("builds a driver with g++")
    path = tmp_path_factory.mktemp("driver") / "driver.so"
    subprocess.run(["g++", "-shared", "-fPIC", "-o", str(path), str(SOURCE)], check=True, capture_output=True)
    return ctypes.CDLL(str(path))


@pytest.fixture
def seen(library, monkeypatch):
    """What the driver was asked for; `fails` makes it refuse."""
    fails = (ctypes.c_int * 4).in_dll(library, "fails")
    fails[:] = [0] * 4
    monkeypatch.setattr(cuda_driver.ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=77))
    return SimpleNamespace(values=(ctypes.c_int64 * 16).in_dll(library, "seen"), fails=fails)


@pytest.mark.parametrize("early", [False, True])
def test_a_kernel_is_loaded_and_launched_on_the_current_stream(seen, early):
    kernel = LoadedKernel(b"cubin", "kernel", DEVICE, 50_000)
    assert list(seen.values[:3]) == [1, 1, 50_000]
    kernel.launch(132, 512, [ctypes.c_uint(7), ctypes.c_void_p(2**40 + 3)], starts_early=early)
    assert list(seen.values[3:9]) == [132, 1, 512, 50_000, 77, int(early)]
    assert seen.values[9] == (601 if early else 0), "programmatic stream serialisation, allowed"
    assert list(seen.values[10:13]) == [7, 2**40 + 3, 1]


@pytest.mark.parametrize(("place", "what"), [
    (0, "load a kernel"), (1, "find a kernel"), (2, "give a thread block 50,000 bytes of shared memory"),
])  # fmt: skip
def test_what_the_driver_refuses_is_said(seen, place, what):
    seen.fails[place] = 2
    with pytest.raises(DriverError, match=f"can't {what}: out of memory \\(2\\)"):
        LoadedKernel(b"cubin", "kernel", DEVICE, 50_000)


def test_a_launch_that_fails_is_an_error(seen):
    kernel = LoadedKernel(b"cubin", "kernel", DEVICE, 0)
    seen.fails[3] = 700
    with pytest.raises(DriverError, match=r"can't launch a kernel: error \(700\)"):
        kernel.launch(1, 32, [ctypes.c_uint(1), ctypes.c_void_p(1)])


def test_without_a_driver():
    with pytest.raises(DriverError, match=r"the CUDA driver can't be loaded: libcuda.so.1"):
        LoadedKernel(b"", "kernel", DEVICE, 0)
