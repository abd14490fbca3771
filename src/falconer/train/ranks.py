"""The ranks of a launch on several GPUs: sums over all ranks, barriers, and closing the process group.

Every method is a collective: all ranks call it, in the same order. With one rank nothing is communicated.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import Accelerator, PartialState
from torch import distributed

from falconer.errors import FalconerError
from falconer.launcher import check_not_sharded

T = TypeVar("T")


class Ranks:
    """The ranks of a training or an evaluation; without a launcher there is one.

    Args:
        device: the device of this rank's model, which decides on the backend, NCCL or gloo.

    Raises:
        FalconerError: the launcher is configured to shard the model.
    """

    def __init__(self, device: torch.device) -> None:
        check_not_sharded()
        accelerator = Accelerator(cpu=device.type == "cpu")
        self._accelerator, self._device = accelerator, accelerator.device
        self.number, self.count = accelerator.process_index, accelerator.num_processes

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that prints and writes files."""
        return self.number == 0

    def wait(self) -> None:
        """Wait until all ranks have called this."""
        _unless_one_has_ended(self._accelerator.wait_for_everyone)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over all ranks, on its device and in its dtype (fp64 is summed in fp32)."""
        if self.count == 1:
            return values
        # NCCL needs tensors on the GPU; fp64 is not sent, as some devices do not support it.
        sent = values.to(self._device, torch.float32 if values.dtype == torch.float64 else values.dtype)
        summed: torch.Tensor = _unless_one_has_ended(lambda: self._accelerator.reduce(sent, reduction="sum"))
        return summed.to(values.device, values.dtype)

    def any(self, flag: bool) -> bool:
        """Return whether a flag is set on any rank."""
        return bool(self.sum(torch.tensor(int(flag))) > 0)

    def texts(self, text: str) -> list[str]:
        """Return each rank's text, in the order of ranks. Texts are sent as integers, so that nothing is unpickled."""
        code = text.encode()
        sizes = torch.zeros(self.count, dtype=torch.int64)
        sizes[self.number] = len(code)
        sizes = self.sum(sizes)
        codes = torch.zeros(self.count, int(sizes.max()), dtype=torch.int64)
        codes[self.number, : len(code)] = torch.tensor(list(code), dtype=torch.int64)
        rows = self.sum(codes).tolist()
        return [bytes(row[:size]).decode() for row, size in zip(rows, sizes.tolist(), strict=True)]


def close() -> None:
    """Destroy the process group, if there is one.

    The command line calls this last: to the other ranks, a rank that has closed looks like one that has died.
    """
    if distributed.is_initialized():
        PartialState().destroy_process_group()


def _unless_one_has_ended(collective: Callable[[], T]) -> T:
    try:
        return collective()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        # gloo raises RuntimeError, NCCL a subclass of it.
        raise FalconerError(
            f"Another rank has ended, so this one can't continue ({str(error).splitlines()[0]}).",
            "See its error message, or the launcher's, for the reason; a training then continues with --resume.",
        ) from error
