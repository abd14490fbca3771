"""Offloading block inputs to pinned host memory until the backward pass, in lean memory."""

import torch


class HostStore:
    """Stores the tensors of one forward pass by number, on the host if the device is a GPU.

    Copies run on a separate stream while the device computes; `fetch` starts the copy back one block early. torch
    caches pinned memory, so only the first step waits for its allocation. On the CPU the tensors themselves are stored.

    Args:
        stream: for the copies; None on the CPU.
    """

    def __init__(self, stream: torch.cuda.Stream | None) -> None:
        self._stream = stream
        self._host: dict[int, torch.Tensor] = {}
        self._here: dict[int, torch.Tensor] = {}

    def put(self, number: int, tensor: torch.Tensor) -> None:
        """Start to copy a tensor to the host; it must not be changed afterwards."""
        if self._stream is None:
            self._here[number] = tensor
            return
        host = self._host[number] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(self._stream):
            host.copy_(tensor, non_blocking=True)
        tensor.record_stream(self._stream)

    def fetch(self, number: int) -> None:
        """Start to copy a tensor back to the device, if that has not been started."""
        if self._stream is None or number in self._here or number not in self._host:
            return
        with torch.cuda.stream(self._stream):
            self._here[number] = self._host.pop(number).to(self._stream.device, non_blocking=True)

    def take(self, number: int) -> torch.Tensor:
        """Return a tensor and remove it from the store, waiting for its copy."""
        self.fetch(number)
        tensor = self._here.pop(number)
        if self._stream is not None:
            current = torch.cuda.current_stream(tensor.device)
            current.wait_stream(self._stream)
            tensor.record_stream(current)
        return tensor
