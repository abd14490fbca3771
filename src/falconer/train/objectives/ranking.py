"""The objective lm+ranking: beside the loss of the language model, the gold reply is ranked above distractors.

    loss = LM + weight * (1 / R) * sum over R ranked replies of -log softmax(scale * means)[gold]

Both parts are of the whole optimiser step: LM is the negative log-likelihood of its target tokens divided by their
number, and R is the number of its ranked replies, over all micro-batches and ranks. `means` are the mean token
log-probabilities of a gold reply and its distractors, end tokens included, by which `falconer evaluate` ranks
candidates (hits@1). The softmax is that of TransferTransfo (Wolf et al. 2019, arXiv:1901.08149), which scores by a
classifier of its own instead. The gold reply's mean comes from the pass that the LM loss comes from, dropout included.

A dialogue with the distractors of its ranked replies is one unit, so that no softmax is divided among micro-batches.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from falconer.data.batch import micro_batches
from falconer.data.branches import RankedBatch, Unit, collate_units
from falconer.data.distractors import Distractors
from falconer.model.falcon.attach import fast_path_of
from falconer.model.probe import are_alike
from falconer.records import Batch, Example
from falconer.train.ranks import Ranks
from falconer.train.step import Part, accumulate
from falconer.train.steps import Step

# The negative log-likelihoods of a batch's targets, row by row, in nats [N].
Nlls = Callable[[Batch], torch.Tensor]
# Whatever the epoch, a validation ranks the same replies above the same distractors.
_VALIDATION = 2**31


@dataclass(frozen=True, slots=True)
class Cut:
    """How a step is cut: the most tokens of a micro-batch, padding included, and the token that pads."""

    micro_tokens: int
    pad_id: int


@dataclass(frozen=True, slots=True)
class Sums:
    """What a batch adds up to; each a scalar, the first two with gradient.

    Args:
        nll: negative log-likelihood of the gold replies, in nats.
        ranking: ranking loss of the ranked replies, in nats.
        num_correct: ranked replies whose mean log-probability is above those of all their distractors.
    """

    nll: torch.Tensor
    ranking: torch.Tensor
    num_correct: torch.Tensor

    def stacked(self) -> torch.Tensor:
        """Return the sums without gradient, fp64 [3]."""
        return torch.stack([self.nll.detach(), self.ranking.detach(), self.num_correct]).double()


@dataclass(frozen=True, slots=True)
class Rankings:
    """The objective on the training and the validation split."""

    train: "Ranking"
    valid: "Ranking"


@dataclass(frozen=True, slots=True)
class Ranking:
    """The objective on the examples of one split.

    Args:
        weight, scale: see the formula above.
        as_tree: distractors are branches of their dialogue's row, see `data/branches.py`; else rows of their own.
        why: the reason for that.
    """

    examples: Sequence[Example]
    distractors: Distractors
    weight: float
    scale: float
    as_tree: bool = True
    why: str = ""

    def units(self, indices: Iterable[int], epoch: int) -> dict[int, Unit]:
        """Return the units of some examples in an epoch."""
        return {index: Unit(self.examples[index], self.distractors.draw(epoch, index)) for index in indices}

    def asked(self, model: Any, nlls: Nlls, pad_id: int, autocast: torch.dtype | None) -> "Ranking":
        """Return the objective in the form that a model can compute, which its longest dialogue shows."""
        by_length = sorted(range(len(self.examples)), key=lambda index: -len(self.examples[index].ids))
        units = (self.units([index], 0)[index] for index in by_length)
        longest = next(unit for unit in units if unit.ranked)
        as_tree, why = shares_prompts(model, longest, nlls, pad_id, autocast)
        return replace(self, as_tree=as_tree, why=why)

    def largest(self, plan: Sequence[Step], cut: Cut, ranks: Ranks) -> RankedBatch:
        """Return the micro-batch with the most positions in the first epoch on this rank."""
        units = self.units({index for step in plan if step.epoch == 0 for index in step.dialogues}, 0)
        groups = [
            group
            for step in plan if step.epoch == 0
            for group in self._groups({index: units[index] for index in step.dialogues}, cut, ranks)
        ]  # fmt: skip
        # With more ranks than dialogues a rank may have none; it then tries an arbitrary dialogue.
        indices = max(
            groups, key=lambda group: sum(units[index].size(self.as_tree) for index in group), default=[min(units)]
        )
        return collate_units([units[index] for index in indices], cut.pad_id, as_tree=self.as_tree)

    def loss(self, batch: RankedBatch, nlls: Nlls) -> torch.Tensor:
        """Return the loss of a batch as if it were a step alone."""
        sums = ranked_sums(batch, nlls(batch.batch), self.scale)
        return sums.nll / max(1, batch.batch.num_targets) + self.weight * sums.ranking / max(1, len(batch.groups))

    def batches(self, units: Mapping[int, Unit], cut: Cut, ranks: Ranks) -> list[RankedBatch]:
        """Return this rank's micro-batches of some units, dealt by their size as `data.batch.micro_batches` does."""
        return [
            collate_units([units[index] for index in group], cut.pad_id, as_tree=self.as_tree)
            for group in self._groups(units, cut, ranks)
        ]

    def _groups(self, units: Mapping[int, Unit], cut: Cut, ranks: Ranks) -> list[list[int]]:
        indices = sorted(units)
        sizes = [units[index].size(self.as_tree) for index in indices]
        groups = micro_batches(range(len(sizes)), sizes, cut.micro_tokens, ranks.number, ranks.count)
        return [[indices[place] for place in group] for group in groups]

    def gradient(
        self, units: Mapping[int, Unit], nlls: Nlls, cut: Cut, parameters: Sequence[nn.Parameter], ranks: Ranks
    ) -> dict[str, float]:
        """Leave the gradient of a step's loss in `parameters`, and return its figures for steps.jsonl.

        Args:
            units: those of the whole step, on every rank.

        Raises:
            NonFiniteLoss: see `train.step.accumulate`.
        """
        num_targets, num_ranked = _counts(units)

        def part(batch: RankedBatch) -> Part:
            sums = ranked_sums(batch, nlls(batch.batch), self.scale)
            loss = sums.nll / num_targets + self.weight * sums.ranking / max(1, num_ranked)
            return Part(loss, sums.stacked())

        found = accumulate(self.batches(units, cut, ranks), part, 3, parameters, ranks)
        return _figures(found, num_targets, num_ranked) | {"ranked_replies": num_ranked}

    @torch.no_grad()
    def validation(
        self, model: Any, nlls: Nlls, cut: Cut, ranks: Ranks, on_batch: Callable[[int, int], None]
    ) -> dict[str, float]:
        """Return the figures of a validation with dropout off, over all ranks.

        Args:
            on_batch: called with (this rank's batches done, total).
        """
        units = self.units(range(len(self.examples)), _VALIDATION)
        batches, total = self.batches(units, cut, ranks), torch.zeros(3, dtype=torch.float64)
        was_training = model.training
        model.eval()
        for number, batch in enumerate(batches, start=1):
            total += ranked_sums(batch, nlls(batch.batch), self.scale).stacked().cpu()
            on_batch(number, len(batches))
        model.train(was_training)
        figures = _figures(ranks.sum(total).tolist(), *_counts(units))
        return {f"valid_{name}": value for name, value in figures.items()}


def _counts(units: Mapping[int, Unit]) -> tuple[int, int]:
    """Return the target tokens and the ranked replies of some units."""
    return sum(one.example.num_targets for one in units.values()), sum(len(one.ranked) for one in units.values())


def _figures(sums: Sequence[float], num_targets: int, num_ranked: int) -> dict[str, float]:
    figures = {"loss": sums[0] / num_targets}
    if num_ranked:
        figures |= {"ranking_loss": sums[1] / num_ranked, "ranking_accuracy": sums[2] / num_ranked}
    return figures


def ranked_sums(batch: RankedBatch, nll_N: torch.Tensor, scale: float) -> Sums:
    """Return the sums of a batch from the negative log-likelihoods of its targets.

    Args:
        scale: of the mean log-probabilities before the softmax.
    """
    # Reply by reply, so that torch adds in a fixed order on a GPU, too.
    nll_replies = torch.stack([part.sum() for part in nll_N.split(list(batch.sizes))])
    device = nll_N.device
    nll = nll_replies[torch.from_numpy(batch.is_gold).to(device)].sum()
    if not len(batch.groups):
        nothing = nll.new_zeros(())
        return Sums(nll, nothing, nothing)
    means = -nll_replies / torch.tensor(batch.sizes, dtype=nll_N.dtype, device=device)
    means_RK = means[torch.from_numpy(batch.groups).to(device)]
    ranking = -torch.log_softmax(scale * means_RK, dim=1)[:, 0].sum()
    # A tie is a loss, as in evaluation.
    num_correct = (means_RK[:, 0] > means_RK[:, 1:].amax(dim=1)).sum().to(nll.dtype)
    return Sums(nll, ranking, num_correct)


@torch.no_grad()
def shares_prompts(model: Any, unit: Unit, nlls: Nlls, pad_id: int, autocast: torch.dtype | None) -> tuple[bool, str]:
    """Return whether a model can compute distractors as branches of their dialogue's row, and why or why not.

    The model is asked: with a mask, branches must give what rows of their own give. What a model does otherwise is
    seen in long texts only if it has a sliding window, so the unit should be a long one.
    """
    path = fast_path_of(model)
    if path is not None and path.device.type == "cuda":
        return False, "the fast path's kernels compute each distractor with its prompt"
    was_training = model.training
    model.eval()
    try:
        tree, rows = (nlls(collate_units([unit], pad_id, as_tree=one).batch) for one in (True, False))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a model raises that is not made for such a mask
        return False, "this model can't compute branches of a prompt"
    finally:
        model.train(was_training)
    if are_alike(model, rows, tree, autocast):
        return True, "the model gives the same for branches of a prompt as for rows of their own"
    return False, "this model gives something else for branches of a prompt"
