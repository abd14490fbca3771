"""The gradient of an optimiser step and the validation loss: sums over target tokens, divided by their number.

The number is that of the whole step, over all micro-batches and ranks. A mean of micro-batch means would weight tokens
by the batch that they are in; this does not, so 1 x 8 == 8 x 1 == two ranks.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from falconer import runtime
from falconer.errors import FalconerError
from falconer.model.layers.replace import has_own_layers
from falconer.model.likelihood import target_nll
from falconer.model.output_head import Head
from falconer.records import Batch
from falconer.train.objectives.objective import Forward, Objective, loss_of
from falconer.train.ranks import Ranks
from falconer.train.recorded import Recorded


class NonFiniteLoss(FalconerError):
    """The loss was NaN or infinite; the message names the dialogues of the batch."""


def nlls(
    model: Any, batch: Batch, *, head_on_targets: Head | None, autocast: torch.dtype | None,
    recorded: Recorded | None = None,
) -> torch.Tensor:  # fmt: skip
    """Return the negative log-likelihood of each of a batch's targets, row by row, in nats, fp32 [N].

    Args:
        head_on_targets: see `target_nll`.
        autocast: for the stock layers; falconer's own layers compute in the dtype of the weights.
        recorded: computes the batches that it can.
    """
    found = recorded.nlls(batch) if recorded else None
    if found is not None:
        return found
    device_type = next(model.parameters()).device.type
    with runtime.autocast(device_type, None if has_own_layers(model) else autocast):
        return target_nll(model, batch, head_on_targets=head_on_targets)


def nll_sum(
    model: Any, batch: Batch, *, head_on_targets: Head | None, autocast: torch.dtype | None,
    recorded: Recorded | None = None,
) -> torch.Tensor:  # fmt: skip
    """Return the summed negative log-likelihood of a batch's targets, a scalar in nats, fp32; see `nlls`."""
    return nlls(model, batch, head_on_targets=head_on_targets, autocast=autocast, recorded=recorded).sum()


def accumulate_gradient(
    batches: Sequence[Any], counts: Sequence[int], objective: Objective, forward: Forward,
    parameters: Sequence[nn.Parameter], ranks: Ranks,
) -> list[float]:  # fmt: skip
    """Leave the gradient of a step's loss in `parameters`, summed over all ranks' micro-batches.

    Args:
        batches: this rank's micro-batches; may be empty.
        counts: of the whole step, over all ranks.

    Returns:
        Each term of the step's loss: its sum divided by its count; equal on all ranks.

    Raises:
        NonFiniteLoss: on every rank, naming the dialogues of the ranks whose own part is not finite; the parameters
            are unchanged.
    """
    found = [_add_gradient(batch, counts, objective, forward) for batch in batches]
    total = torch.stack(found).sum(dim=0).cpu() if found else torch.zeros(len(counts), dtype=torch.float64)
    # Adapter gradients are a few megabytes, so one flat all-reduce suffices, for any number of ranks.
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    own, own_flat = total, flat
    flat, total = ranks.sum(flat), ranks.sum(total)
    if not _are_finite(total, flat):
        ids = "" if _are_finite(own, own_flat) else ", ".join(dict.fromkeys(i for b in batches for i in b.dialogue_ids))
        named = ", ".join(text for text in ranks.texts(ids) if text) or "all dialogues of this step, by their sum"
        loss = float(loss_of(total, counts, objective.weights))
        raise NonFiniteLoss(f"The loss or its gradient is not finite (loss {loss:.4g}) in dialogues: {named}.")
    offset = 0
    for parameter in parameters:
        parameter.grad = flat[offset : offset + parameter.numel()].view_as(parameter)
        offset += parameter.numel()
    return _terms(total, counts)


def _add_gradient(batch: Any, counts: Sequence[int], objective: Objective, forward: Forward) -> torch.Tensor:
    """Add the gradient of a micro-batch, and return its sums, fp64, on the device: the host need not wait for them.

    Nothing else of its pass is left: while the next one is recorded, nothing may hang on it.
    """
    sums = objective.sums(forward, batch)
    loss_of(sums, counts, objective.weights).backward()
    return sums.detach().double()


def _terms(sums: torch.Tensor, counts: Sequence[int]) -> list[float]:
    return [value / max(1, count) for value, count in zip(sums.tolist(), counts, strict=True)]


def _are_finite(loss: torch.Tensor, gradient: torch.Tensor) -> bool:
    return bool(torch.isfinite(loss).all() and torch.isfinite(gradient).all())


def without_gradient(parameters: Mapping[str, nn.Parameter]) -> list[str]:
    """Return the names of the parameters that the loss does not depend on, given the gradients in them.

    In a new LoRA one of the two matrices is zero, so the gradient of the other is zero at first: it counts as having a
    gradient if its partner has one. A text may use only some of a layer's experts: one with a gradient counts for all.
    Parameters of single tokens that PEFT trains are not checked, since a text may not contain these tokens.
    """
    with_gradient = {
        _partners(name) for name, p in parameters.items() if p.grad is not None and bool(p.grad.count_nonzero())
    }
    idle = [name for name in parameters if _partners(name) not in with_gradient]
    return [name for name in idle if ".trainable_tokens_" not in name]


def _partners(name: str) -> str:
    return re.sub(r"(experts)\.\d+", r"\1", name.partition(".lora_")[0])


@torch.no_grad()
def validation_terms(
    objective: Objective, forward: Forward, batches: Sequence[Any], counts: Sequence[int], ranks: Ranks,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> list[float]:  # fmt: skip
    """Return each term of the loss over all ranks' batches: its sum divided by its count, with dropout off.

    Args:
        batches: this rank's.
        counts: of the whole validation, over all ranks.
        on_batch: called with (this rank's batches done, total).
    """
    model = forward.model
    was_training = model.training
    model.eval()
    sums = torch.zeros(len(counts), dtype=torch.float64)
    for number, batch in enumerate(batches, start=1):
        sums += objective.sums(forward, batch).double().cpu()
        on_batch(number, len(batches))
    model.train(was_training)
    return _terms(ranks.sum(sums), counts)
