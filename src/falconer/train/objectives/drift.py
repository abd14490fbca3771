"""How far a preference training has moved the model: its divergence from the one that it started from.

The drift is KL(p || q) of the next token, in nats: p is the model, q the model that training started from. At each
token of the chosen replies of some validation pairs it is exact, a sum over the vocabulary; the drift is the mean over
these tokens. The replies before them are those of the data, so it is no estimate on the model's own replies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from falconer import runtime
from falconer.model.distributions import divergence, target_log_probs
from falconer.model.lora import trainable_tensors
from falconer.records import Example
from falconer.train.ranks import Ranks

# Each takes two forward passes of a row; their replies have some 400 tokens.
_NUM_REPLIES = 32


@dataclass(frozen=True, slots=True)
class Start:
    """The adapter that training starts from, in the order of `trainable_tensors`, and the precision of its pass."""

    tensors: tuple[torch.Tensor, ...]
    precision: runtime.Precision

    @classmethod
    def of(cls, model: Any, precision: runtime.Precision) -> "Start":
        """Return a copy of a model's adapter as it is now."""
        return cls(tuple(tensor.detach().clone() for tensor in trainable_tensors(model).values()), precision)


def drift(model: Any, start: Start, replies: Sequence[Example], ranks: Ranks) -> float:
    """Return KL(model || start) of the next token, the mean over the targets of the first replies, in nats.

    Args:
        replies: rows of `reply_row`; each rank measures some of them.
    """
    was_training = model.training
    model.eval()
    sums = torch.zeros(2, dtype=torch.float64)
    for reply in replies[:_NUM_REPLIES][ranks.number :: ranks.count]:
        now = target_log_probs(model, reply, start.precision)
        ours = Start.of(model, start.precision)
        _put(model, start)
        before = target_log_probs(model, reply, start.precision)
        _put(model, ours)
        sums += torch.tensor([float(divergence(now, before).sum()), reply.num_targets], dtype=torch.float64)
    model.train(was_training)
    total, count = ranks.sum(sums).tolist()
    return float(total / count)


@torch.no_grad()
def _put(model: Any, adapter: Start) -> None:
    for parameter, tensor in zip(trainable_tensors(model).values(), adapter.tensors, strict=True):
        parameter.copy_(tensor)
