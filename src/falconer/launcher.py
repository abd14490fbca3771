"""Which of a launcher's processes this one is (torchrun, accelerate launch), and which of them speaks when a run stops.

Needs no torch: a mistake in the configuration is found, and told, before that is loaded.
"""

import os
import time

# So long another rank leaves it to the first to speak. accelerate looks every 5 seconds whether a process has ended.
PATIENCE_S = 15.0


def rank() -> int:
    """Return this process's number among all that the launcher started; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def speaker(message: str) -> str:
    """Return what this rank says of the error that stops it; on a rank other than the first, after waiting.

    Most errors all ranks have. Then the first one prints it and ends, and the launcher ends the others while they wait
    here, so that it is said once. If this process still lives after that, the error is its own and nobody else tells.
    """
    number = rank()
    if number == 0:
        return message
    time.sleep(PATIENCE_S)
    return f"rank {number}: {message}"
