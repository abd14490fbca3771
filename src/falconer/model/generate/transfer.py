"""Bringing numbers to the device without waiting until it has finished what it computes."""

from collections.abc import Sequence

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
