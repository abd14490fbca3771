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
from falconer.records import Batch
from falconer.train.ranks import Ranks
from falconer.train.recorded import Recorded


@dataclass(frozen=True, slots=True)
class Forward:
    """How the model that is trained computes.

    Args:
        head_on_targets, autocast, recorded: see `train.step.nlls`.
    """

    model: Any
    head_on_targets: Head | None
    autocast: torch.dtype | None
    recorded: Recorded | None = None


class Examined(Protocol):
    """A micro-batch of an objective; an error names its dialogues."""

    @property
    def dialogue_ids(self) -> tuple[str, ...]: ...


class Objective(Protocol):
    """What is learned from the examples of a run, such as dialogues or pairs of replies; these are counted from 0.

    An item is an example as a step computes it; each objective has items of its own. One is never divided.

    Attributes:
        lengths: tokens of each training example, by which steps are planned.
        weights: of the K terms in the loss.
        names: of the terms in steps.jsonl, see `figures_of`.
    """

    @property
    def lengths(self) -> Sequence[int]: ...

    @property
    def weights(self) -> tuple[float, ...]: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    def adapt_to(self, forward: Forward) -> None:
        """Choose what depends on how the model computes; called before the first step, when its path has been set."""
        ...

    def record(self) -> dict[str, Any]:
        """Return what run.json says: `objective`, with its name and what chooses the best adapter, and more."""
        ...

    def lines(self) -> list[str]:
        """Return what is printed of it when a training starts."""
        ...

    def items(self, indices: Sequence[int], epoch: int) -> list[Any]:
        """Return training examples as items. What is drawn at random depends on the seed and the epoch alone."""
        ...

    def validation_items(self) -> list[Any]:
        """Return all validation examples as items, the same ones each time."""
        ...

    def sizes(self, items: Sequence[Any]) -> list[int]:
        """Return the positions of each item in a micro-batch of its own: micro-batches are cut by these."""
        ...

    def counts(self, items: Sequence[Any]) -> tuple[int, ...]:
        """Return the K counts of some items: those of a whole step divide its sums."""
        ...

    def facts(self, items: Sequence[Any]) -> dict[str, int]:
        """Return what a row of steps.jsonl says of a step's items, among it `tokens`, those computed."""
        ...

    def batch(self, items: Sequence[Any]) -> Any:
        """Return some items as one micro-batch, see `Examined`."""
        ...

    def rows(self, batch: Any) -> Batch:
        """Return the rows of a micro-batch that the model computes."""
        ...

    def sums(self, forward: Forward, batch: Any) -> torch.Tensor:
        """Return the K sums of a batch, fp32 [K], on the model's device, with gradient."""
        ...

    def measured(self, forward: Forward, ranks: Ranks) -> dict[str, float]:
        """Return what a validation measures besides its terms, for steps.jsonl."""
        ...


def loss_of(sums: torch.Tensor, counts: Sequence[int], weights: Sequence[float]) -> torch.Tensor:
    """Return the part of a step's loss that a batch's sums are, a scalar with gradient."""
    parts = [weight * sums[k] / max(1, counts[k]) for k, weight in enumerate(weights) if weight]
    return torch.stack(parts).sum() if len(parts) > 1 else parts[0]


def figures_of(objective: Objective, terms: Sequence[float], counts: Sequence[int]) -> dict[str, float]:
    """Return `loss`, by which the best adapter is chosen, and the terms by name, without those whose count is 0.

    A term that is called `loss` is the loss; without one, that is the weighted sum of the terms.
    """
    figures = {name: term for name, term, count in zip(objective.names, terms, counts, strict=True) if count}
    weighted = (weight * term for weight, term in zip(objective.weights, terms, strict=True) if weight)
    return figures if "loss" in figures else {"loss": sum(weighted), **figures}
