"""The language modelling objective: the likelihood of every reply of whole dialogues."""

from collections.abc import Sequence
from typing import Any

import torch

from falconer.data.batch import collate
from falconer.records import Batch, Example
from falconer.train.objectives.objective import Forward
from falconer.train.ranks import Ranks
from falconer.train.step import nll_sum
from falconer.train.steps import validation_batches


class LmObjective:
    """One term: the negative log-likelihood of the target tokens, in nats.

    Args:
        train, valid: the encoded dialogues.
        pad_id: a token that stands behind the end of shorter rows.
    """

    weights, names = (1.0,), ("",)

    def __init__(self, train: Sequence[Example], valid: Sequence[Example], pad_id: int) -> None:
        self._train, self._valid, self._pad_id = train, valid, pad_id
        self.lengths = [len(example.ids) for example in train]

    def record(self) -> dict[str, Any]:
        return {}

    def lines(self) -> list[str]:
        return []

    def counts(self, items: Sequence[int]) -> tuple[int, ...]:
        return (sum(self._train[item].num_targets for item in items),)

    def facts(self, items: Sequence[int]) -> dict[str, int]:
        return {"target_tokens": self.counts(items)[0]}

    def batch(self, items: Sequence[int]) -> Batch:
        return collate([self._train[item] for item in items], self._pad_id)

    def validation(self, micro_tokens: int, rank: int, num_ranks: int) -> list[Batch]:
        return validation_batches(self._valid, micro_tokens, self._pad_id, rank, num_ranks)

    def batch_counts(self, batch: Batch) -> tuple[int, ...]:
        return (batch.num_targets,)

    def measured(self, forward: Forward, ranks: Ranks) -> dict[str, float]:
        return {}

    def sums(self, forward: Forward, batch: Batch) -> torch.Tensor:
        nll = nll_sum(
            forward.model, batch, head_on_targets=forward.head_on_targets, autocast=forward.autocast
        )  # fmt: skip
        return nll.unsqueeze(0)
