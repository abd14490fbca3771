"""The objective lm+ranking: beside the loss of the language model, the gold reply is ranked above distractors.

    loss = LM + weight * (1 / R) * sum over R ranked replies of -log softmax(scale * means)[gold]

Both parts are of the whole optimiser step: LM is the negative log-likelihood of its target tokens divided by their
number, and R is the number of its ranked replies, over all micro-batches and ranks. `means` are the mean token
log-probabilities of a gold reply and its distractors, end tokens included, by which `falconer evaluate` ranks
candidates (hits@1). The softmax is that of TransferTransfo (Wolf et al. 2019, arXiv:1901.08149), which scores by a
classifier of its own instead. The gold reply's mean comes from the pass that the LM loss comes from, dropout included.

A dialogue with the distractors of its ranked replies is one unit, so that no softmax is divided among micro-batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from falconer.data.branches import RankedBatch, Unit, collate_units
from falconer.data.distractors import Distractors
from falconer.model.falcon.attach import fast_path_of
from falconer.model.probe import are_alike
from falconer.ranking_config import RankingConfig
from falconer.records import Batch, Example
from falconer.train.objectives.objective import Forward
from falconer.train.ranks import Ranks
from falconer.train.step import nlls

# Whatever the epoch, a validation ranks the same replies above the same distractors.
_VALIDATION = 2**31


@dataclass(frozen=True, slots=True)
class RankedSplit:
    """The encoded dialogues of a split, and where their distractors are drawn from."""

    examples: Sequence[Example]
    distractors: Distractors

    def units(self, indices: Sequence[int], epoch: int) -> list[Unit]:
        """Return the units of some dialogues in an epoch."""
        return [Unit(self.examples[index], self.distractors.draw(epoch, index)) for index in indices]


class RankingObjective:
    """Three terms: the loss of the language model, the ranking loss, and the accuracy (0-1). An item is a unit.

    Accuracy counts the ranked replies whose mean log-probability is above those of all their distractors.

    Args:
        settings: of the formula above.
        pad_id: a token that stands behind the end of shorter rows.
    """

    names = ("loss", "ranking_loss", "ranking_accuracy")

    def __init__(self, train: RankedSplit, valid: RankedSplit, settings: RankingConfig, pad_id: int) -> None:
        self._train, self._valid, self._settings, self._pad_id = train, valid, settings, pad_id
        self.lengths = [len(example.ids) for example in train.examples]
        self.weights = (1.0, settings.weight, 0.0)
        # Distractors are branches of their dialogue's row, see `data/branches.py`; else rows of their own.
        self._as_tree, self._why = True, ""

    def adapt_to(self, forward: Forward) -> None:
        """Ask the model with its longest dialogue whether distractors can be branches."""
        by_length = sorted(range(len(self.lengths)), key=lambda index: -self.lengths[index])
        units = (self._train.units([index], 0)[0] for index in by_length)
        longest = next(unit for unit in units if unit.ranked)
        self._as_tree, self._why = shares_prompts(forward, longest, self._pad_id)

    def record(self) -> dict[str, Any]:
        best = {"name": "lm+ranking", "best_adapter_by": "validation loss of the language model"}
        found = {
            "from_candidates": self._train.distractors.has_candidates, "shares_prompts": self._as_tree,
            "why": self._why,
        }  # fmt: skip
        return {"objective": best | self._settings.model_dump() | found}

    def lines(self) -> list[str]:
        asked = self._settings
        prompts = "once for all of them" if self._as_tree else "again with each of them"
        return [
            f"objective lm+ranking: {100 * asked.share:g} % of the replies are ranked above {asked.distractors} "
            f"distractors each, with weight {asked.weight:g} and scale {asked.scale:g}; their prompt is computed "
            f"{prompts} ({self._why}); the best adapter is chosen by the validation loss of the language model"
        ]

    def items(self, indices: Sequence[int], epoch: int) -> list[Unit]:
        return self._train.units(indices, epoch)

    def validation_items(self) -> list[Unit]:
        return self._valid.units(range(len(self._valid.examples)), _VALIDATION)

    def sizes(self, items: Sequence[Unit]) -> list[int]:
        return [item.size(self._as_tree) for item in items]

    def counts(self, items: Sequence[Unit]) -> tuple[int, ...]:
        num_ranked = sum(len(item.ranked) for item in items)
        return sum(item.example.num_targets for item in items), num_ranked, num_ranked

    def facts(self, items: Sequence[Unit]) -> dict[str, int]:
        num_targets, num_ranked, _ = self.counts(items)
        tokens = sum(item.num_tokens(self._as_tree) for item in items)
        return {"ranked_replies": num_ranked, "target_tokens": num_targets, "tokens": tokens}

    def batch(self, items: Sequence[Unit]) -> RankedBatch:
        return collate_units(items, self._pad_id, as_tree=self._as_tree)

    def rows(self, batch: RankedBatch) -> Batch:
        return batch.batch

    def sums(self, forward: Forward, batch: RankedBatch) -> torch.Tensor:
        return ranked_sums(batch, _nlls(forward, batch), self._settings.scale)

    def measured(self, forward: Forward, ranks: Ranks) -> dict[str, float]:
        return {}


def ranked_sums(batch: RankedBatch, nll_N: torch.Tensor, scale: float) -> torch.Tensor:
    """Return the sums of a batch, [3], from the negative log-likelihoods of its targets.

    Args:
        scale: of the mean log-probabilities before the softmax.
    """
    # Reply by reply, so that torch adds in a fixed order on a GPU, too.
    nll_replies = torch.stack([part.sum() for part in nll_N.split(list(batch.sizes))])
    device = nll_N.device
    nll = nll_replies[torch.from_numpy(batch.is_gold).to(device)].sum()
    if not len(batch.groups):
        nothing = nll.new_zeros(())
        return torch.stack([nll, nothing, nothing])
    means = -nll_replies / torch.tensor(batch.sizes, dtype=nll_N.dtype, device=device)
    means_RK = means[torch.from_numpy(batch.groups).to(device)]
    ranking = -torch.log_softmax(scale * means_RK, dim=1)[:, 0].sum()
    # A tie is a loss, as in evaluation.
    num_correct = (means_RK[:, 0] > means_RK[:, 1:].amax(dim=1)).sum().to(nll.dtype)
    return torch.stack([nll, ranking, num_correct])


def _nlls(forward: Forward, batch: RankedBatch) -> torch.Tensor:
    return nlls(
        forward.model, batch.batch, head_on_targets=forward.head_on_targets, autocast=forward.autocast,
        recorded=forward.recorded,
    )  # fmt: skip


@torch.no_grad()
def shares_prompts(forward: Forward, unit: Unit, pad_id: int) -> tuple[bool, str]:
    """Return whether a model can compute distractors as branches of their dialogue's row, and why or why not.

    The model is asked: with a mask, branches must give what rows of their own give. If a model of a kind that is
    unknown here does otherwise beyond some window, only a long text shows it, so the unit should be a long one.
    """
    model = forward.model
    path = fast_path_of(model)
    if path is not None and path.device.type == "cuda":
        return False, "the fast path's kernels compute each distractor with its prompt"
    was_training = model.training
    model.eval()
    try:
        tree, rows = (_nlls(forward, collate_units([unit], pad_id, as_tree=one)) for one in (True, False))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a model raises that is not made for such a mask
        return False, "this model can't compute branches of a prompt"
    finally:
        model.train(was_training)
    if are_alike(model, rows, tree, forward.autocast):
        return True, "the model gives the same for branches of a prompt as for rows of their own"
    return False, "this model gives something else for branches of a prompt"
