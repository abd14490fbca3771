"""Are the starting model's log-probabilities computed once, and again where what they depend on has changed?"""

import json

import numpy as np
import pytest
import torch

from falcon_tiny import tiny_falcon
from falconer.data.batch import collate
from falconer.errors import FalconerError
from falconer.model.output_head import head_of
from falconer.train.objectives.objective import Forward
from falconer.train.objectives.reference import key_of, reference_of
from falconer.train.objectives.replies import reply_log_probabilities, reply_row
from falconer.train.ranks import Ranks

RANKS = Ranks(torch.device("cpu"))
ROWS = [reply_row(range(20, 20 + size), [*range(60, 60 + size % 4), 11], f"d{size}") for size in (5, 9, 30, 14)]


@pytest.fixture(scope="module")
def forward():
    model = tiny_falcon(torch.float32, dropout=0.4)
    return Forward(model, head_of(model), None)


def reference(run, forward, key="a", rows=ROWS):
    computed = []
    found = reference_of(run, key, forward, rows, 40, 0, RANKS, lambda: computed.append(1))
    return found, bool(computed)


def test_they_are_those_of_the_model_without_dropout_and_are_computed_once(forward, tmp_path):
    first, was_computed = reference(tmp_path, forward)
    assert was_computed and forward.model.training
    forward.model.eval()
    with torch.no_grad():
        sums, _ = reply_log_probabilities(
            forward.model, collate(ROWS, 0), head_on_targets=forward.head_on_targets, autocast=None
        )
    forward.model.train()
    assert first == pytest.approx(sums.numpy(), rel=1e-5) and first.dtype == np.float32
    again, was_computed = reference(tmp_path, forward)
    assert not was_computed and again.tobytes() == first.tobytes(), "bit for bit what was computed"


@pytest.mark.parametrize(("key", "rows"), [("b", ROWS), ("a", ROWS[:3])])
def test_another_key_or_other_rows_are_computed_again(forward, tmp_path, key, rows):
    reference(tmp_path, forward)
    found, was_computed = reference(tmp_path, forward, key, rows)
    assert was_computed and len(found) == len(rows)
    assert not reference(tmp_path, forward, key, rows)[1]


def test_a_damaged_file_is_refused_and_says_how_to_go_on(forward, tmp_path):
    reference(tmp_path, forward)
    path = tmp_path / "reference.json"
    tree = json.loads(path.read_text())
    tree["log_probabilities"][0] -= 1
    path.write_text(json.dumps(tree))
    with pytest.raises(FalconerError, match=r"reference\.json' is damaged.*Remove it: rm .*computed again"):
        reference(tmp_path, forward)


def test_the_key_depends_on_every_fact_and_on_nothing_else():
    facts = {"adapter": "1", "base": {"x": "2"}}
    assert key_of(facts) == key_of(dict(reversed(facts.items())))
    assert len({key_of(facts), key_of(facts | {"adapter": "3"}), key_of(facts | {"base": {"x": "3"}})}) == 3
