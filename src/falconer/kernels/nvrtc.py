"""Compiling CUDA C++ with NVRTC, the compiler that comes with torch's CUDA builds, and caching what it makes.

A cached file's name is the hash of everything that it depends on: source, options and NVRTC's version. Its content
begins with its own hash, so a damaged file is noticed and compiled again. What is in there runs on the GPU, so only
files that nobody but this user may write are read.
"""

import ctypes
import hashlib
import importlib.util
import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from falconer.errors import FalconerError
from falconer.files.replace import replace_file

# A larger file is none of ours.
_LARGEST = 2**24
_SHA256_BYTES = 32
_TOOLKIT = Path("/usr/local/cuda/lib64")


class CannotCompile(Exception):
    """Why a CUDA kernel can't be compiled here, in plain words."""


@dataclass(frozen=True, slots=True)
class CudaSource:
    """CUDA C++.

    Args:
        name: as error messages call it.
        headers: (name, text) of each file that it includes.
    """

    name: str
    text: str
    headers: tuple[tuple[str, str], ...] = ()


class Nvrtc:
    """NVRTC, loaded from the installed packages or from the system.

    Args:
        cuda_version: of torch's CUDA, such as "13.0"; NVRTC of the same major version is looked for.

    Raises:
        CannotCompile: it is not installed.
    """

    def __init__(self, cuda_version: str) -> None:
        name = f"libnvrtc.so.{cuda_version.partition('.')[0]}"
        library = _first_loaded([*(folder / name for folder in _folders()), Path(name), _TOOLKIT / name])
        if library is None:
            raise CannotCompile(f"NVRTC is not installed ({name}; it comes with the package nvidia-cuda-nvrtc)")
        self._library = library
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        self.version = f"{major.value}.{minor.value}"

    @property
    def architectures(self) -> tuple[int, ...]:
        """The compute capabilities that it compiles for, such as 90 for 9.0."""
        num = ctypes.c_int()
        self._check(self._library.nvrtcGetNumSupportedArchs(ctypes.byref(num)))
        found = (ctypes.c_int * num.value)()
        self._check(self._library.nvrtcGetSupportedArchs(found))
        return tuple(found)

    def compile(self, source: CudaSource, options: Sequence[str]) -> tuple[bytes, str]:
        """Return a cubin and the compiler's log.

        Args:
            options: with `--gpu-architecture=sm_...`.

        Raises:
            CannotCompile: with the compiler's first message.
        """
        program = ctypes.c_void_p()
        texts, names = ([one[place].encode() for one in source.headers] for place in (1, 0))
        headers, include_names = ((ctypes.c_char_p * len(some))(*some) for some in (texts, names))
        self._check(self._library.nvrtcCreateProgram(
            ctypes.byref(program), source.text.encode(), source.name.encode(), len(names), headers, include_names
        ))  # fmt: skip
        try:
            given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            failed = self._library.nvrtcCompileProgram(program, len(options), given)
            log = self._read(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
            if failed:
                lines = [line for line in log.splitlines() if "error" in line] or log.splitlines() or [str(failed)]
                raise CannotCompile(f"NVRTC {self.version} does not compile {source.name}: {lines[0].strip()}")
            return self._read(program, "CUBIN"), log
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _read(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        found = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, f"nvrtcGet{what}")(program, found))
        return found.raw

    def _check(self, failed: int) -> None:
        if failed:
            self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
            raise CannotCompile(f"NVRTC fails: {self._library.nvrtcGetErrorString(failed).decode()}")


def cached_cubin(nvrtc: Nvrtc, source: CudaSource, options: Sequence[str], folder: Path | None) -> bytes:
    """Return a cubin, from the cache if it is there.

    Args:
        folder: of the cache; None, or one that can't be used: it is compiled each time.

    Raises:
        CannotCompile: see `Nvrtc.compile`.
    """
    path = None if folder is None else folder / f"{_key(nvrtc, source, options)}.cubin"
    if path is not None and (found := _read_cached(path)) is not None:
        return found
    cubin, _ = nvrtc.compile(source, options)
    if path is not None:
        _write_cached(path, cubin)
    return cubin


def _key(nvrtc: Nvrtc, source: CudaSource, options: Sequence[str]) -> str:
    parts = [nvrtc.version, *options, source.name, source.text, *(part for header in source.headers for part in header)]
    digest = hashlib.sha256()
    for part in parts:
        # The length first: no two lists of parts are the same bytes.
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()


def _read_cached(path: Path) -> bytes | None:
    """Return a cubin of the cache; None where there is none that can be trusted."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        for found in (os.fstat(descriptor), path.parent.stat()):
            if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        content = file.read(_LARGEST)
    digest, cubin = content[:_SHA256_BYTES], content[_SHA256_BYTES:]
    return cubin if cubin and hashlib.sha256(cubin).digest() == digest else None


def _write_cached(path: Path, cubin: bytes) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replace_file(path) as aside:
            aside.write_bytes(hashlib.sha256(cubin).digest() + cubin)
        path.chmod(0o600)
    except (OSError, FalconerError):
        # A cache that can't be written costs seconds each time, and nothing else.
        return


def _folders() -> list[Path]:
    """Return where the packages that torch's CUDA builds need have their libraries."""
    found = importlib.util.find_spec("nvidia")
    roots = [Path(place) for place in (found.submodule_search_locations or ())] if found else []
    inside = [folder for root in roots for folder in sorted(root.glob("*/lib"))]
    # Builds of torch that carry the library themselves.
    return [*inside, *(Path(place) / "torch" / "lib" for place in sys.path)]


def _first_loaded(paths: Sequence[Path]) -> ctypes.CDLL | None:
    for path in paths:
        if path.is_absolute() and not path.is_file():
            continue
        try:
            # NVRTC loads its built-in functions by their name alone, which finds them once they are loaded.
            for builtins in sorted(path.parent.glob("libnvrtc-builtins.so.*")) if path.is_absolute() else ():
                ctypes.CDLL(str(builtins))
            return ctypes.CDLL(str(path))
        except OSError:
            continue
    return None
