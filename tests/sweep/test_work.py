"""The order of the work: stages of successive halving, and what of a sweep is done again."""

import pytest

from falconer.errors import FalconerError
from falconer.sweep.plan import make_plan
from falconer.sweep.work import sweep
from small_runs import silent
from swept import train_at_once


@pytest.fixture
def trained(monkeypatch):
    """The higher the rank, the better; returns what was trained, as (r, epochs, seed)."""
    return train_at_once(monkeypatch, lambda config: -config.lora.r / 10)


def plan(values, keep=None):
    given = [f"lora.r={values}", "train.epochs=4"]
    return make_plan(None, given, num_seeds=2, by="word_ppl", keep=keep, resamples=100)


def test_each_setting_with_each_seed_and_only_once(tmp_path, trained):
    first = sweep(tmp_path / "s", plan("4,8"), silent())
    assert trained == [(4, 4, 17), (4, 4, 18), (8, 4, 17), (8, 4, 18)]
    assert sweep(tmp_path / "s", None, silent()) == first and len(trained) == 4
    assert [one.setting.values["lora.r"] for one in first.outcomes] == ["8", "4"]
    assert (tmp_path / "s" / "sweep.md").read_text().startswith("# Sweep")


def test_halving_trains_the_better_half_longer(tmp_path, trained):
    result = sweep(tmp_path, plan("1,2,3,4,5,6,7,8", keep=2), silent())
    by_epochs = {epochs: {r for r, one, _ in trained if one == epochs} for epochs in (1, 2, 4)}
    assert by_epochs == {1: set(range(1, 9)), 2: {5, 6, 7, 8}, 4: {7, 8}}
    said = {one.setting.values["lora.r"]: one.verdict for one in result.outcomes}
    assert said["8"] == "best" and said["7"] == "worse, with 2 of 2 seeds"
    assert said["6"] == "stopped after 1/2 of the training" and said["1"] == "stopped after 1/4 of the training"
    assert len(result.outcomes) == 8


def test_a_failure_does_not_stop_the_others_and_is_tried_again(tmp_path, trained):
    result = sweep(tmp_path, plan("13,4,8"), silent())
    assert [one.verdict.split(":")[0] for one in result.outcomes] == ["best", "worse, with 2 of 2 seeds", "failed"]
    assert result.outcomes[2].verdict == "failed: setting-01-seed-17: no luck"
    before = len(trained)
    sweep(tmp_path, None, silent())
    assert trained[before:] == [(13, 4, 17), (13, 4, 18)]


def test_a_figure_that_is_not_measured_ends_the_sweep_at_its_first_setting(tmp_path, trained):
    given = make_plan(None, ["lora.r=1,2,3,4"], num_seeds=2, by="hits_1", keep=None, resamples=100)
    with pytest.raises(FalconerError, match="hits_1 was not measured on 30 validation dialogues"):
        sweep(tmp_path, given, silent())
    assert {r for r, _, _ in trained} == {1}
