"""Loading a compiled CUDA kernel and launching it through the driver, on torch's current stream."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch

# CUfunction_attribute and CUlaunchAttributeID of cuda.h.
_MAX_DYNAMIC_SHARED_BYTES = 8
_PROGRAMMATIC_STREAM_SERIALIZATION = 6


class DriverError(Exception):
    """What the CUDA driver says when it refuses something."""


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute: its number, and a value of 64 bytes."""

    _fields_ = (("number", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", ctypes.c_int * 16))


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p), ("attributes", ctypes.POINTER(_Attribute)), ("num_attributes", ctypes.c_uint),
    )  # fmt: skip


class LoadedKernel:
    """A kernel of a cubin on one device. It stays loaded until the process ends, since recorded graphs may contain it.

    Args:
        name: as `extern "C"` declares it.
        shared_bytes: dynamic shared memory of a thread block.

    Raises:
        DriverError: the driver can't load it, or a thread block has not so much shared memory.
    """

    def __init__(self, cubin: bytes, name: str, device: torch.device, shared_bytes: int) -> None:
        self.device, self.shared_bytes = device, shared_bytes
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise DriverError(f"the CUDA driver can't be loaded: {error}") from error
        module, self._function = ctypes.c_void_p(), ctypes.c_void_p()
        with torch.cuda.device(device):
            # It makes the device's context, which torch shares with everybody, this thread's.
            torch.cuda.synchronize(device)
            self._check(self._driver.cuModuleLoadData(ctypes.byref(module), cubin), "load a kernel")
            self._check(
                self._driver.cuModuleGetFunction(ctypes.byref(self._function), module, name.encode()), "find a kernel"
            )
            failed = self._driver.cuFuncSetAttribute(
                self._function, _MAX_DYNAMIC_SHARED_BYTES, ctypes.c_int(shared_bytes)
            )
            self._check(failed, f"give a thread block {shared_bytes:,} bytes of shared memory")

    def launch(
        self, num_blocks: int, num_threads: int, arguments: Sequence[Any], *, starts_early: bool = False
    ) -> None:
        """Launch the kernel on the current stream; in a stream that is being recorded, it becomes part of the graph.

        Args:
            num_blocks, num_threads: of the grid, and of each of its thread blocks.
            arguments: ctypes objects, as the kernel declares its parameters.
            starts_early: it may start before the kernel before has ended, for whose end it waits itself
                (programmatic dependent launch, compute capability 9.0 and later).

        Raises:
            DriverError: the driver refuses it.
        """
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(argument) for argument in arguments))
        early = _Attribute(_PROGRAMMATIC_STREAM_SERIALIZATION, b"", (ctypes.c_int * 16)(1))
        with torch.cuda.device(self.device):
            config = _Config(
                (ctypes.c_uint * 3)(num_blocks, 1, 1), (ctypes.c_uint * 3)(num_threads, 1, 1), self.shared_bytes,
                torch.cuda.current_stream(self.device).cuda_stream, ctypes.pointer(early), int(starts_early),
            )  # fmt: skip
            failed = self._driver.cuLaunchKernelEx(ctypes.byref(config), self._function, pointers, None)
        self._check(failed, "launch a kernel")

    def _check(self, failed: int, what: str) -> None:
        if failed:
            words = ctypes.c_char_p()
            self._driver.cuGetErrorString(failed, ctypes.byref(words))
            reason = (words.value or b"error").decode()
            raise DriverError(f"the CUDA driver can't {what}: {reason} ({failed})")
