"""A run of a sweep is measured on its validation dialogues, and on no others."""

import pytest

from falconer.run.folder import read_config
from falconer.sweep.folder import read_measured
from falconer.sweep.measure import train_and_measure
from small_runs import Small, silent, validations

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_validation_dialogues_and_their_loss(tmp_path):
    small = Small(tmp_path)
    config = small.config("evaluate.max_replies=2", "evaluate.max_new_tokens=3", "train.max_steps=2")
    run = tmp_path / "s" / "runs" / "setting-01-seed-17"
    assert train_and_measure(tmp_path / "s", run, config, silent())
    found, about = read_measured(tmp_path / "s", run.name)
    assert {name.rpartition("-")[0] for name in found.dialogue_ids} == {"valid"}
    assert about.data == "6 validation dialogues (given)" and len(found.predictions) == 2
    nats = sum(one.nll for one in found.likelihoods) / sum(one.num_tokens for one in found.likelihoods)
    assert nats == pytest.approx(min(row["valid_loss"] for row in validations(run)), rel=1e-3)
    # An ordinary run, which a second call does not train again.
    steps = (run / "steps.jsonl").read_bytes()
    assert train_and_measure(tmp_path / "s", run, None, silent())
    assert (run / "steps.jsonl").read_bytes() == steps and read_config(run) == config
