"""What a training step computes: the interface between the training loop and what is learned.

An objective has K terms. Each is a sum over a batch, and each has a count, such as the target tokens. A step's loss is
`sum_k weight_k * (sum of term k over the whole step) / (count k of the whole step)`, over all micro-batches and ranks,
so how a step is cut changes nothing. A term of weight 0 is only reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from falconer.model.output_head import Head
from falconer.train.ranks import Ranks


@dataclass(frozen=True, slots=True)
class Forward:
    """How the model that is trained computes.

    Args:
        head_on_targets, autocast: see `train.step.nlls`.
    """

    model: Any
    head_on_targets: Head | None
    autocast: torch.dtype | None


class Examined(Protocol):
    """A micro-batch of an objective; an error names its dialogues."""

    @property
    def dialogue_ids(self) -> tuple[str, ...]: ...


class Objective(Protocol):
    """What is learned from the items of a run, such as dialogues or pairs of replies; items are counted from 0.

    Attributes:
        lengths: tokens of each training item; steps and micro-batches are planned by them.
        weights: of the K terms in the loss.
        names: of the terms in steps.jsonl; the row's `loss` is their weighted sum. "" is not written.
    """

    @property
    def lengths(self) -> Sequence[int]: ...

    @property
    def weights(self) -> tuple[float, ...]: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    def record(self) -> dict[str, Any]:
        """Return what run.json says of the items."""
        ...

    def lines(self) -> list[str]:
        """Return what is printed of the items, besides the number of dialogues."""
        ...

    def counts(self, items: Sequence[int]) -> tuple[int, ...]:
        """Return the K counts of training items: those of a whole step divide its sums."""
        ...

    def facts(self, items: Sequence[int]) -> dict[str, int]:
        """Return what a row of steps.jsonl says of a step's items."""
        ...

    def batch(self, items: Sequence[int]) -> Any:
        """Return training items as one micro-batch, see `Examined`."""
        ...

    def validation(self, micro_tokens: int, rank: int, num_ranks: int) -> list[Any]:
        """Return one rank's validation batches."""
        ...

    def batch_counts(self, batch: Any) -> tuple[int, ...]:
        """Return the K counts of a batch."""
        ...

    def measured(self, forward: Forward, ranks: Ranks) -> dict[str, float]:
        """Return what a validation measures besides its loss, for steps.jsonl."""
        ...

    def sums(self, forward: Forward, batch: Any) -> torch.Tensor:
        """Return the K sums of a batch, fp32 [K], on the model's device, with gradient."""
        ...


def loss_of(sums: torch.Tensor, counts: Sequence[int], weights: Sequence[float]) -> torch.Tensor:
    """Return the part of a step's loss that a batch's sums are, a scalar with gradient."""
    parts = [weight * sums[k] / max(1, counts[k]) for k, weight in enumerate(weights) if weight]
    return torch.stack(parts).sum() if len(parts) > 1 else parts[0]
