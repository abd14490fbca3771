"""One optimiser step's gradient and the validation loss: sums over target tokens, divided once by their global number.

A mean of micro-batch means would weight tokens by the batch they happen to share; this does not, so
1 x 8 == 8 x 1 == two ranks.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from falconer import runtime
from falconer.errors import FalconerError
from falconer.model.likelihood import target_nll
from falconer.records import Batch
from falconer.train.ranks import Ranks

# A batch's summed loss, in nats.
NllSum = Callable[[Batch], torch.Tensor]


class NonFiniteLoss(FalconerError):
    """The loss was NaN or infinite; carries the dialogues that were in the batch."""


def nll_sum(model: Any, batch: Batch, *, head_on_targets: bool, autocast: torch.dtype | None) -> torch.Tensor:
    """Return the summed negative log-likelihood of a batch's targets, a scalar in nats, fp32."""
    device_type = next(model.parameters()).device.type
    with runtime.autocast(device_type, autocast):
        return target_nll(model, batch, head_on_targets=head_on_targets).sum()


def accumulate_gradient(
    batches: Sequence[Batch], num_targets: int, nll: NllSum, parameters: Sequence[nn.Parameter], ranks: Ranks
) -> float:
    """Leave the gradient of the token-weighted loss in `parameters`, summed over all ranks' micro-batches.

    Args:
        batches: this rank's micro-batches; may be empty.
        num_targets: target tokens of the whole step, over all ranks.
        nll: gives a batch's summed loss.

    Returns:
        The step's loss in nats per target token, equal on all ranks.

    Raises:
        NonFiniteLoss: on every rank, naming the dialogues of those ranks whose own part is not finite; the parameters
            are as before.
    """
    total = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        loss_sum = nll(batch)
        (loss_sum / num_targets).backward()
        total += loss_sum.detach().double().cpu()
    # Adapter gradients are a few megabytes: one flat all-reduce serves every number of ranks, quantised base or not.
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    own, own_flat = total, flat
    flat, total = ranks.sum(flat), ranks.sum(total)
    loss = float(total) / num_targets
    if not _are_finite(total, flat):
        ids = "" if _are_finite(own, own_flat) else ", ".join(dict.fromkeys(i for b in batches for i in b.dialogue_ids))
        named = ", ".join(part for part in ranks.texts(ids) if part) or "all of this step, by their sum"
        raise NonFiniteLoss(f"The loss or its gradient is not finite (loss {loss}) in dialogues: {named}.")
    offset = 0
    for parameter in parameters:
        parameter.grad = flat[offset : offset + parameter.numel()].view_as(parameter)
        offset += parameter.numel()
    return loss


def _are_finite(loss: torch.Tensor, gradient: torch.Tensor) -> bool:
    return bool(torch.isfinite(loss) and torch.isfinite(gradient).all())


def without_gradient(parameters: Mapping[str, nn.Parameter]) -> list[str]:
    """Return the names of parameters that a loss does not depend on, by the gradient that it left in them.

    A fresh LoRA multiplies two matrices, one of them zero, and so the other's gradient is zero at first: it counts as
    having one if its partner does. Of a layer's experts a text may ask some alone: one that learns speaks for all. Of
    the tokens that PEFT trains alone a text may have none.
    """
    learning = {
        _partners(name) for name, p in parameters.items() if p.grad is not None and bool(p.grad.count_nonzero())
    }
    idle = [name for name in parameters if _partners(name) not in learning]
    return [name for name in idle if ".trainable_tokens_" not in name]


def _partners(name: str) -> str:
    return re.sub(r"(experts)\.\d+", r"\1", name.partition(".lora_")[0])


@torch.no_grad()
def validation_loss(model: Any, batches: Sequence[Batch], nll: NllSum, ranks: Ranks) -> float:
    """Return the token-weighted loss over all ranks' batches, in nats per target token, with dropout off."""
    was_training = model.training
    model.eval()
    sums = torch.zeros(2, dtype=torch.float64)
    for batch in batches:
        sums += torch.tensor([float(nll(batch)), batch.num_targets], dtype=torch.float64)
    model.train(was_training)
    sums = ranks.sum(sums)
    return float(sums[0] / sums[1])
