"""The language modelling objective: the likelihood of every reply of whole dialogues."""

from collections.abc import Sequence
from typing import Any

import torch

from falconer.data.batch import collate
from falconer.records import Batch, Example
from falconer.train.objectives.objective import Forward
from falconer.train.ranks import Ranks
from falconer.train.step import nll_sum


class LmObjective:
    """One term: the negative log-likelihood of the target tokens, in nats. An item is an encoded dialogue.

    Args:
        train, valid: the encoded dialogues.
        pad_id: a token that stands behind the end of shorter rows.
    """

    weights, names = (1.0,), ("loss",)

    def __init__(self, train: Sequence[Example], valid: Sequence[Example], pad_id: int) -> None:
        self._train, self._valid, self._pad_id = train, valid, pad_id
        self.lengths = [len(example.ids) for example in train]

    def adapt_to(self, forward: Forward) -> None:
        pass

    def record(self) -> dict[str, Any]:
        return {"objective": {"name": "lm", "best_adapter_by": "validation loss of the language model"}}

    def lines(self) -> list[str]:
        return []

    def items(self, indices: Sequence[int], epoch: int) -> list[Example]:
        return [self._train[index] for index in indices]

    def validation_items(self) -> list[Example]:
        return list(self._valid)

    def sizes(self, items: Sequence[Example]) -> list[int]:
        return [len(item.ids) for item in items]

    def counts(self, items: Sequence[Example]) -> tuple[int, ...]:
        return (sum(item.num_targets for item in items),)

    def facts(self, items: Sequence[Example]) -> dict[str, int]:
        return {"target_tokens": self.counts(items)[0], "tokens": sum(self.sizes(items))}

    def batch(self, items: Sequence[Example]) -> Batch:
        return collate(items, self._pad_id)

    def rows(self, batch: Batch) -> Batch:
        return batch

    def sums(self, forward: Forward, batch: Batch) -> torch.Tensor:
        nll = nll_sum(
            forward.model, batch, head_on_targets=forward.head_on_targets, autocast=forward.autocast,
            recorded=forward.recorded,
        )  # fmt: skip
        return nll.unsqueeze(0)

    def measured(self, forward: Forward, ranks: Ranks) -> dict[str, float]:
        return {}
