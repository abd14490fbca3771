"""The preference objective: DPO, direct preference optimisation, on pairs of replies to the same prompt.

With p the model, q the model that training starts from, x a prompt, c the chosen and r the rejected reply:

    margin = beta * (log p(c|x) - log q(c|x) - log p(r|x) + log q(r|x))
    loss   = -log sigmoid(margin) + sft_weight * -log p(c|x) / |c|

Margin and the loss of `sft_weight` 0 are those of Rafailov et al. 2023 (arXiv:2305.18290, equation 7). Normalised by
length, each log-probability is divided by the tokens of its reply, as in Lambert et al. 2024 (arXiv:2411.15124, section
5.1.2) after the mean log-probability of Meng et al. 2024 (SimPO, arXiv:2405.14734, equation 3). The second term is that
of Pang et al. 2024 (arXiv:2404.19733, equation 1).

Loss, margin and accuracy (the share of pairs with a margin above 0) are means over the pairs of a step.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from falconer.data.batch import collate
from falconer.data.encode import Encoder
from falconer.records import Batch, Example, PreferencePair
from falconer.train.objectives.drift import Start, drift
from falconer.train.objectives.objective import Forward
from falconer.train.objectives.replies import reply_log_probabilities, reply_row
from falconer.train.ranks import Ranks


@dataclass(frozen=True, slots=True)
class Settings:
    """See `prefer_config.PreferConfig`."""

    beta: float
    length_normalised: bool
    sft_weight: float


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A pair as two rows with the same prompt, and where it is from."""

    source: str
    chosen: Example
    rejected: Example

    @property
    def rows(self) -> tuple[Example, Example]:
        return self.chosen, self.rejected

    @property
    def num_tokens(self) -> int:
        """Tokens of both rows, the shorter one padded."""
        return 2 * max(len(row.ids) for row in self.rows)


@dataclass(frozen=True, slots=True)
class ComparedPair:
    """A pair, and the log-probabilities of its replies by the model that training starts from."""

    pair: EncodedPair
    chosen: float
    rejected: float


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Pairs as one batch of rows: all chosen replies, then all rejected ones.

    Args:
        reference: log-probabilities by the model that training starts from, fp32 [2 P], in the order of the rows.
    """

    rows: Batch
    reference: torch.Tensor

    @property
    def num_pairs(self) -> int:
        return len(self.reference) // 2

    @property
    def dialogue_ids(self) -> tuple[str, ...]:
        return self.rows.dialogue_ids[: self.num_pairs]


def encode_pairs(pairs: Sequence[PreferencePair], encoder: Encoder) -> tuple[list[EncodedPair], int]:
    """Return the encoded pairs, and how many were left out since persona and reply do not fit into the context.

    Both rows of a pair have the same prompt: as many of the oldest turns are dropped as the longer reply needs.
    """
    found = []
    for pair in pairs:
        replies = [encoder.encode_reply(text) for text in (pair.chosen, pair.rejected)]
        reserve = max(map(len, replies))
        if encoder.room(pair.persona) < reserve:
            continue
        prompt = encoder.encode_prompt(pair.persona, pair.history, reserve=reserve)
        found.append(EncodedPair(pair.source, *(reply_row(prompt, reply, pair.dialogue_id) for reply in replies)))
    return found, len(pairs) - len(found)


def margins(sums: torch.Tensor, reference: torch.Tensor, sizes: torch.Tensor, settings: Settings) -> torch.Tensor:
    """Return the margin of each pair, [P].

    Args:
        sums, reference: log-probabilities of the replies by the model and by the one it started from, [2 P]: the chosen
            replies, then the rejected ones.
        sizes: their tokens, end tokens included, [2 P].
    """
    gains = sums - reference
    chosen, rejected = (gains / sizes if settings.length_normalised else gains).chunk(2)
    return settings.beta * (chosen - rejected)


class PreferenceObjective:
    """Four terms: the preference loss, the chosen replies' loss per token, margin, and accuracy (0-100).

    An item is a pair with what it is compared with.

    Before `begin`, the model is compared with one that gives every reply probability 1: enough to try a batch.

    Args:
        train, valid: pairs.
        pad_id: a token that stands behind the end of shorter rows.
    """

    names = ("preference_loss", "sft_loss", "margin", "accuracy")

    def __init__(
        self, train: Sequence[EncodedPair], valid: Sequence[EncodedPair], settings: Settings, pad_id: int
    ) -> None:
        self.train, self.valid, self._settings, self._pad_id = train, valid, settings, pad_id
        self._reference = [np.zeros(2 * len(some), dtype=np.float32) for some in (train, valid)]
        self._start: Start | None = None
        self.lengths = [pair.num_tokens for pair in train]
        self.weights = (1.0, settings.sft_weight, 0.0, 0.0)

    def begin(self, reference: Sequence[np.ndarray], start: Start) -> None:
        """Set what the model is compared with.

        Args:
            reference: log-probabilities of the training rows and of the validation rows by the model that training
                starts from, fp32 [2 N] each: the rows of the first pair, of the second, ...
            start: that model's adapter, to measure the drift from it.
        """
        self._reference, self._start = list(reference), start

    def adapt_to(self, forward: Forward) -> None:
        pass

    def record(self) -> dict[str, Any]:
        return {
            "objective": {"name": "preference", "best_adapter_by": "validation loss of the pairs"},
            "pairs": {name: dict(Counter(pair.source for pair in some)) for name, some in self._named()},
        }

    def lines(self) -> list[str]:
        return [
            f"pairs   {len(some):,} for {name} ({', '.join(f'{n:,} {source}' for source, n in found.items())})"
            for name, some in self._named()
            if (found := Counter(pair.source for pair in some))
        ]

    def _named(self) -> list[tuple[str, Sequence[EncodedPair]]]:
        return [("training", self.train), ("validation", self.valid)]

    def items(self, indices: Sequence[int], epoch: int) -> list[ComparedPair]:
        return self._items(self.train, self._reference[0], indices)

    def validation_items(self) -> list[ComparedPair]:
        return self._items(self.valid, self._reference[1], range(len(self.valid)))

    def _items(
        self, pairs: Sequence[EncodedPair], reference: np.ndarray, indices: Sequence[int]
    ) -> list[ComparedPair]:  # fmt: skip
        return [
            ComparedPair(pairs[index], float(reference[2 * index]), float(reference[2 * index + 1]))
            for index in indices
        ]  # fmt: skip

    def sizes(self, items: Sequence[ComparedPair]) -> list[int]:
        return [item.pair.num_tokens for item in items]

    def counts(self, items: Sequence[ComparedPair]) -> tuple[int, ...]:
        return (len(items),) * 4

    def facts(self, items: Sequence[ComparedPair]) -> dict[str, int]:
        targets = sum(row.num_targets for item in items for row in item.pair.rows)
        return {"pairs": len(items), "target_tokens": targets, "tokens": sum(self.sizes(items))}

    def batch(self, items: Sequence[ComparedPair]) -> PairBatch:
        rows = [item.pair.chosen for item in items] + [item.pair.rejected for item in items]
        reference = [item.chosen for item in items] + [item.rejected for item in items]
        return PairBatch(collate(rows, self._pad_id), torch.tensor(reference, dtype=torch.float32))

    def rows(self, batch: PairBatch) -> Batch:
        return batch.rows

    def sums(self, forward: Forward, batch: PairBatch) -> torch.Tensor:
        sums, sizes = reply_log_probabilities(
            forward.model, batch.rows, head_on_targets=forward.head_on_targets, autocast=forward.autocast,
            recorded=forward.recorded,
        )  # fmt: skip
        margin = margins(sums, batch.reference.to(sums.device), sizes, self._settings)
        chosen = -(sums / sizes)[: batch.num_pairs]
        accuracy = 100 * (margin > 0).to(margin.dtype)
        return torch.stack([-F.logsigmoid(margin).sum(), chosen.sum(), margin.sum().detach(), accuracy.sum()])

    def measured(self, forward: Forward, ranks: Ranks) -> dict[str, float]:
        assert self._start is not None, "training begins with `begin`"
        return {"drift": drift(forward.model, self._start, [pair.chosen for pair in self.valid], ranks)}
