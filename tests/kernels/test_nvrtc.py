"""Compiling with NVRTC and caching what it makes: with a compiler of our own, and with the real one if it is there."""

import os
import shutil
import stat
import subprocess

import pytest

from falconer.kernels import nvrtc as compiling
from falconer.kernels.nf4_rows import TILINGS, options, source
from falconer.kernels.nvrtc import CannotCompile, CudaSource, Nvrtc, cached_cubin

HEADERS = (("one.cuh", "__device__ int y;"),)
SOURCE = CudaSource("one.cu", "int x;", HEADERS)
OPTIONS = ["--gpu-architecture=sm_90"]


class Compiler:
    """Counts what it is asked for."""

    def __init__(self, version: str = "13.0") -> None:
        self.version, self.asked = version, 0

    def compile(self, source, options):
        self.asked += 1
        return f"{self.version}{source}{options}".encode(), ""


def real_nvrtc() -> Nvrtc:
    try:
        return Nvrtc("13.0")
    except CannotCompile:
        pytest.skip("NVRTC is not installed (pip install nvidia-cuda-nvrtc)")


def test_the_second_time_it_is_read(tmp_path):
    compiler, folder = Compiler(), tmp_path / "new" / "kernels"
    first = cached_cubin(compiler, SOURCE, OPTIONS, folder)
    assert cached_cubin(compiler, SOURCE, OPTIONS, folder) == first and compiler.asked == 1
    (path,) = folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("other", [
    (Compiler("13.1"), SOURCE, OPTIONS),
    (Compiler(), CudaSource("one.cu", "int z;", SOURCE.headers), OPTIONS),
    (Compiler(), CudaSource("one.cu", "int x;", (("one.cuh", "int z;"),)), OPTIONS),
    (Compiler(), SOURCE, ["--gpu-architecture=sm_80"]),
    (Compiler(), SOURCE, [*OPTIONS, "-DA=1"]),
])  # fmt: skip
def test_whatever_it_depends_on_makes_another_file(tmp_path, other):
    first = cached_cubin(Compiler(), SOURCE, OPTIONS, tmp_path)
    assert cached_cubin(*other, tmp_path) != first
    assert other[0].asked == 1 and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", [
    lambda content: content[:-1], lambda content: content + b"x", lambda content: b"", lambda content: content[:32],
    lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
])  # fmt: skip
def test_a_damaged_file_is_compiled_again_and_replaced(tmp_path, damage):
    compiler = Compiler()
    first = cached_cubin(compiler, SOURCE, OPTIONS, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    for asked in (2, 2):
        assert cached_cubin(compiler, SOURCE, OPTIONS, tmp_path) == first and compiler.asked == asked


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_may_write_is_not_trusted(tmp_path, mode):
    compiler = Compiler()
    cached_cubin(compiler, SOURCE, OPTIONS, tmp_path)
    (path,) = tmp_path.iterdir()
    path.chmod(mode)
    cached_cubin(compiler, SOURCE, OPTIONS, tmp_path)
    assert compiler.asked == 2 and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_folder_that_others_may_write_and_a_link_are_not_trusted(tmp_path):
    compiler = Compiler()
    cached_cubin(compiler, SOURCE, OPTIONS, tmp_path / "a")
    (tmp_path / "a").chmod(0o777)
    cached_cubin(compiler, SOURCE, OPTIONS, tmp_path / "a")
    assert compiler.asked == 2
    (path,) = (tmp_path / "a").iterdir()
    (tmp_path / "b").mkdir(mode=0o700)
    (tmp_path / "b" / path.name).symlink_to(path)
    cached_cubin(compiler, SOURCE, OPTIONS, tmp_path / "b")
    assert compiler.asked == 3


def test_without_a_cache_it_is_compiled_each_time(tmp_path):
    compiler = Compiler()
    (tmp_path / "file").write_text("")
    for folder in (None, tmp_path / "file" / "kernels"):
        for _ in range(2):
            assert cached_cubin(compiler, SOURCE, OPTIONS, folder)
    assert compiler.asked == 4


def test_a_pipe_in_the_cache_does_not_hang(tmp_path):
    compiler = Compiler()
    cached_cubin(compiler, SOURCE, OPTIONS, tmp_path)
    (path,) = tmp_path.iterdir()
    path.unlink()
    os.mkfifo(path, 0o600)
    assert cached_cubin(compiler, SOURCE, OPTIONS, tmp_path) and compiler.asked == 2


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(compiling, "_first_loaded", lambda _: None)
    with pytest.raises(CannotCompile, match=r"NVRTC is not installed \(libnvrtc.so.13; .*nvidia-cuda-nvrtc\)"):
        Nvrtc("13.0")


def test_a_damaged_library_is_passed_over(tmp_path):
    (tmp_path / "libnvrtc.so.13").write_bytes(b"no library")
    assert compiling._first_loaded([tmp_path / "libnvrtc.so.13", tmp_path / "missing.so"]) is None


@pytest.mark.skipif(shutil.which("g++") is None, reason="builds libraries with g++")
def test_the_library_finds_its_built_in_functions_beside_it(tmp_path):
    """NVRTC 13.0 looks for them by their name alone."""
    builtins, library = tmp_path / "libnvrtc-builtins.so.99.0", tmp_path / "libnvrtc.so.99"
    texts = {builtins: "", library: f"""
        #include <dlfcn.h>
        extern "C" int finds() {{ return dlopen("{builtins.name}", RTLD_NOW) != nullptr; }}
    """}  # fmt: skip
    for path, text in texts.items():
        (tmp_path / "one.cpp").write_text(text)
        command = ["g++", "-shared", "-fPIC", f"-Wl,-soname,{path.name}", "-o", str(path), "one.cpp", "-ldl"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert compiling._first_loaded([library]).finds() == 1


def test_the_compilers_first_message_is_said():
    compiler = real_nvrtc()
    assert int(compiler.version.partition(".")[0]) >= 13 and {80, 90} <= set(compiler.architectures)
    with pytest.raises(CannotCompile, match=r'does not compile one.cu: one.cu\(1\): error: .*"wrong" is undefined'):
        compiler.compile(CudaSource("one.cu", "__device__ int x = wrong;"), OPTIONS)
    with pytest.raises(CannotCompile, match="does not compile one.cu"):
        compiler.compile(SOURCE, ["--gpu-architecture=none"])
    including = CudaSource("one.cu", '#include "one.cuh"\nextern "C" __global__ void f() { y = 1; }', HEADERS)
    cubin, _ = compiler.compile(including, OPTIONS)
    assert cubin.startswith(b"\x7fELF")


# RTX 3090, 4090, A100, H100 and H200, B200, RTX 5090.
@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)])
@pytest.mark.parametrize("nested", [False, True])
def test_the_kernel_for_few_rows_compiles_for_the_cards_that_people_have(capability, nested):
    """The shared memory of a thread block is at most 99 KiB where that is all there is, and what spills is little."""
    compiler = real_nvrtc()
    for groups, tiling in enumerate(TILINGS, 1):
        given = [*options(capability, tiling, groups, nested), "--ptxas-options=-v"]
        cubin, log = compiler.compile(source(), given)
        assert cubin.startswith(b"\x7fELF") and b"nf4_rows" in cubin
        assert tiling.shared_bytes(groups) <= 99 * 1024
        registers = int(log.partition("Used ")[2].partition(" registers")[0])
        spilled = int(log.partition(" bytes spill stores")[0].rpartition(",")[2])
        assert registers * 32 * tiling.warps * tiling.per_sm <= 65536 and spilled <= 128, log
