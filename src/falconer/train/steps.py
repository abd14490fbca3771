"""The plan of a run: its epochs divided into optimiser steps, and the intervals between validations."""

from collections.abc import Sequence
from dataclasses import dataclass

from falconer.config import TrainConfig
from falconer.data.batch import plan_epoch


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step.

    Args:
        epoch, position: this is step `position` of epoch `epoch`, both counted from 0.
        dialogues: indices of its training examples.
    """

    epoch: int
    position: int
    dialogues: tuple[int, ...]


def plan_steps(lengths: Sequence[int], config: TrainConfig) -> list[Step]:
    """Return every optimiser step of a run.

    Args:
        lengths: tokens of each training example.
    """
    plan: list[Step] = []
    epochs, epoch = config.epochs, 0
    while epochs > 1e-9:
        steps = plan_epoch(lengths, config.step_tokens, config.seed, epoch)
        kept = steps[: max(1, round(min(1.0, epochs) * len(steps)))]
        plan += [Step(epoch, position, tuple(dialogues)) for position, dialogues in enumerate(kept)]
        epochs, epoch = epochs - 1, epoch + 1
        if config.max_steps and len(plan) >= config.max_steps:
            return plan[: config.max_steps]
    return plan


def validation_interval(plan: Sequence[Step], num_examples: int, config: TrainConfig) -> int:
    """Return the number of steps between validations: as configured, else four validations per epoch."""
    epochs = sum(len(step.dialogues) for step in plan) / num_examples
    # Rounded up, so that a remainder of a few steps does not cause another validation just before the last.
    return config.validate_every or -(-len(plan) // max(1, round(4 * epochs)))
