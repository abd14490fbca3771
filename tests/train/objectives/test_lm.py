"""Is the language modelling objective one term, the sum over target tokens?"""

import torch

from falcon_tiny import tiny_falcon
from falconer.model.output_head import head_of
from falconer.train.objectives.lm import LmObjective
from falconer.train.objectives.objective import Forward
from falconer.train.objectives.replies import reply_row
from falconer.train.step import nll_sum

ROWS = [reply_row(range(20, 20 + size), [40, 41, 11], f"d{size}") for size in (5, 9, 30)]


def test_items_are_dialogues_and_counts_are_target_tokens():
    objective = LmObjective(ROWS, ROWS[:2], 0)
    items = objective.items([0, 2], epoch=3)
    assert objective.lengths == [8, 12, 33] and objective.sizes(items) == [8, 33] and objective.counts(items) == (6,)
    assert objective.facts(items) == {"target_tokens": 6, "tokens": 41}
    batch = objective.batch(items)
    assert batch.dialogue_ids == ("d5", "d30")
    assert [item.dialogue_id for item in objective.validation_items()] == ["d5", "d9"]
    model = tiny_falcon(torch.float32)
    (found,) = objective.sums(Forward(model, head_of(model), None), batch)
    expected = nll_sum(model, batch, head_on_targets=head_of(model), autocast=None)
    assert torch.equal(found, expected)
    assert torch.isfinite(found) and found.requires_grad
