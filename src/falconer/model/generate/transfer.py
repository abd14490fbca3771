"""Bringing numbers to the device and back without waiting until it has finished everything that it computes."""

from collections.abc import Callable, Sequence

import numpy as np
import torch


def on_device(
    numbers: Sequence[float] | Sequence[Sequence[float]] | np.ndarray,
    device: torch.device,
    dtype: torch.dtype = torch.int64,
) -> torch.Tensor:
    """Return a tensor of these numbers on the device.

    A copy from ordinary memory to a GPU first waits for everything that was launched before it.
    """
    tensor = torch.as_tensor(numbers, dtype=dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def on_host(tensor: torch.Tensor) -> Callable[[], np.ndarray]:
    """Begin to copy a tensor to the host; return a function that waits for it, but not for what is launched later."""
    if tensor.device.type != "cuda":
        return lambda: tensor.numpy()
    copied = tensor.to("cpu", non_blocking=True)
    done = torch.cuda.current_stream(tensor.device).record_event()

    def wait() -> np.ndarray:
        done.synchronize()
        return copied.numpy()

    return wait
