"""Where the inputs of blocks wait for the backward pass in lean memory: pinned host memory, copied beside the work."""

import torch


class HostStore:
    """Keeps the tensors of one forward pass by number, on the host where the device is a GPU.

    Copies run on a stream of their own while the device computes; `fetch` starts the way back one block early. torch
    caches pinned memory, so only the first step waits for it. On the CPU the tensors themselves are kept.

    Args:
        stream: for the copies; None on the CPU.
    """

    def __init__(self, stream: torch.cuda.Stream | None) -> None:
        self._stream = stream
        self._host: dict[int, torch.Tensor] = {}
        self._here: dict[int, torch.Tensor] = {}

    def put(self, number: int, tensor: torch.Tensor) -> None:
        """Start to copy a tensor out; it must not be written to any more."""
        if self._stream is None:
            self._here[number] = tensor
            return
        host = self._host[number] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(self._stream):
            host.copy_(tensor, non_blocking=True)
        tensor.record_stream(self._stream)

    def fetch(self, number: int) -> None:
        """Start to copy a tensor back, if it is not on its way already."""
        if self._stream is None or number in self._here or number not in self._host:
            return
        with torch.cuda.stream(self._stream):
            self._here[number] = self._host.pop(number).to(self._stream.device, non_blocking=True)

    def take(self, number: int) -> torch.Tensor:
        """Return a tensor and forget it; what was fetched earlier is waited for as well."""
        self.fetch(number)
        tensor = self._here.pop(number)
        if self._stream is not None:
            current = torch.cuda.current_stream(tensor.device)
            current.wait_stream(self._stream)
            tensor.record_stream(current)
        return tensor
