"""The rank of this process under a launcher (torchrun, accelerate launch), and which rank prints an error.

Does not import torch: a mistake in the configuration is reported before torch is loaded.
"""

import os
import time

# How long other ranks wait for the first one to print the error. accelerate checks every 5 seconds for ended processes.
PATIENCE_S = 15.0


def rank() -> int:
    """Return this process's number among all that the launcher started; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def speaker(message: str) -> str:
    """Return the error message that this rank prints; ranks other than the first wait before they return.

    Most errors occur on all ranks. The first one then prints the message and ends, and the launcher ends the others
    while they wait here, so that it appears once. A rank that is still running after that has an error of its own.
    """
    number = rank()
    if number == 0:
        return message
    time.sleep(PATIENCE_S)
    return f"rank {number}: {message}"
