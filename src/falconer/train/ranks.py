"""The processes that train one run together: their numbers, what they add up and wait for, and how they part.

Every method is a collective: all ranks call it, in the same order. With one rank nothing is sent.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import Accelerator, PartialState
from torch import distributed

from falconer.errors import FalconerError

T = TypeVar("T")


class Ranks:
    """The ranks of a run, one without a launcher.

    Args:
        device: of this rank's model; decides by what the ranks talk, NCCL or gloo.
    """

    def __init__(self, device: torch.device) -> None:
        accelerator = Accelerator(cpu=device.type == "cpu")
        self._accelerator, self._device = accelerator, accelerator.device
        self.number, self.count = accelerator.process_index, accelerator.num_processes

    @property
    def is_first(self) -> bool:
        """Whether this rank writes and speaks."""
        return self.number == 0

    def wait(self) -> None:
        """Go on when all ranks are here."""
        _unless_one_has_ended(self._accelerator.wait_for_everyone)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over all ranks, where it was and as exact as fp32 or its own dtype."""
        if self.count == 1:
            return values
        # NCCL takes tensors on the GPU, gloo both; fp64 stays on the CPU as some devices have none.
        sent = values.to(self._device, torch.float32 if values.dtype == torch.float64 else values.dtype)
        summed: torch.Tensor = _unless_one_has_ended(lambda: self._accelerator.reduce(sent, reduction="sum"))
        return summed.to(values.device, values.dtype)

    def any(self, flag: bool) -> bool:
        """Tell whether a flag is set on any rank."""
        return bool(self.sum(torch.tensor(int(flag))) > 0)

    def texts(self, text: str) -> list[str]:
        """Return each rank's text, in the order of ranks. They travel as numbers: nothing is unpickled."""
        code = text.encode()
        sizes = torch.zeros(self.count, dtype=torch.int64)
        sizes[self.number] = len(code)
        sizes = self.sum(sizes)
        codes = torch.zeros(self.count, int(sizes.max()), dtype=torch.int64)
        codes[self.number, : len(code)] = torch.tensor(list(code), dtype=torch.int64)
        rows = self.sum(codes).tolist()
        return [bytes(row[:size]).decode() for row, size in zip(rows, sizes.tolist(), strict=True)]


def close() -> None:
    """End this process's part in the group of ranks, if it has one.

    The command line calls it after its last word: to the other ranks, a rank that has closed looks like one that died.
    """
    if distributed.is_initialized():
        PartialState().destroy_process_group()


def _unless_one_has_ended(collective: Callable[[], T]) -> T:
    try:
        return collective()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        # gloo says so by a RuntimeError, NCCL by a subclass of it.
        raise FalconerError(
            f"Another rank has ended, and training can't go on without it ({str(error).splitlines()[0]}).",
            "Its own message, or the launcher's, says why; then go on with --resume.",
        ) from error
