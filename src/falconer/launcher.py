"""The rank of this process under a launcher (torchrun, accelerate launch), and which rank prints an error.

Does not import torch: a mistake in the configuration is reported before torch is loaded.
"""

import os
import time

from falconer.errors import FalconerError

# How long other ranks wait for the first one to print the error. accelerate checks every 5 seconds for ended processes.
PATIENCE_S = 15.0


def rank() -> int:
    """Return this process's number among all that the launcher started; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """Return how many processes the launcher started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_on_node() -> bool:
    """Return whether this process is the first of those that its launcher started; with several nodes each has one."""
    return os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")) == "0"


def check_not_sharded() -> None:
    """Refuse a launcher that is configured to shard the model itself (FSDP, DeepSpeed).

    Raises:
        FalconerError: it is; with what to type instead.
    """
    for name, variable in (("FSDP", "ACCELERATE_USE_FSDP"), ("DeepSpeed", "ACCELERATE_USE_DEEPSPEED")):
        if os.environ.get(variable, "false").lower() in ("true", "1"):
            raise FalconerError(
                f"The launcher is configured for {name}, which would shard the model. falconer does not need that: the "
                "frozen 4-bit base of a 7B takes 4 GiB on each GPU, and only gradients of the adapter are exchanged. "
                "Sharded, these weights would have to be gathered again for every layer of every step.",
                f"Start the command with torchrun -m -- falconer, or configure accelerate without {name}.",
            )


def speaker(message: str) -> str:
    """Return the error message that this rank prints; ranks other than the first of a node wait before they return.

    Most errors occur on all ranks. The first one of each node then prints the message and ends, and the launcher there
    ends the others while they wait here, so that it appears once in each launcher's terminal. A rank that is still
    running after that has an error of its own.
    """
    number = rank()
    if not is_first_on_node():
        time.sleep(PATIENCE_S)
    return f"rank {number}: {message}" if number else message
