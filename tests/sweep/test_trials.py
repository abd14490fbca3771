"""A search: its trials, its finalists, and that it goes on wherever it was killed."""

import math
import shutil
from importlib.util import find_spec

import pytest

from falconer.errors import FalconerError
from falconer.run.folder import read_config, write_config
from falconer.sweep.folder import run_folder
from falconer.sweep.plan import make_plan
from falconer.sweep.work import sweep
from small_runs import silent
from swept import train_at_once

pytestmark = pytest.mark.skipif(find_spec("optuna") is None, reason="optuna is not installed")


def plan(keep=None, num_trials=12):
    given = ["train.learning_rate=1e-4..1e-2:log", "lora.r=4,8,13", "train.epochs=9"]
    return make_plan(
        None, given, num_seeds=2, by="word_ppl", keep=keep, resamples=100, num_trials=num_trials, num_finalists=3
    )  # fmt: skip


def nats(config):
    return (math.log10(config.train.learning_rate) + 3) ** 2 - config.lora.r / 100


@pytest.fixture
def trained(monkeypatch):
    return train_at_once(monkeypatch, nats)


def test_trials_with_one_seed_and_finalists_with_all(tmp_path, trained):
    result = sweep(tmp_path, plan(), silent())
    assert len(trained) == 12 + 3 and {seed for _, _, seed in trained[:12]} == {17}
    assert {seed for _, _, seed in trained[12:]} == {18}
    assert [one.setting.number for one in result.outcomes] != list(range(1, 13))
    said = [one.verdict for one in result.outcomes]
    num_failed = sum(r == 13 for r, _, _ in trained)
    assert num_failed > 0 and said[0] == "best" and said.count("no finalist") == 12 - 3 - num_failed
    assert sum(one.has_failed for one in result.outcomes) == num_failed
    # Holm's correction is over the finalists alone: two tests, of 100 resamples each.
    finalists = result.outcomes[:3]
    assert all(one.tests[0].p_holm == pytest.approx(2 / 201) for one in finalists[1:])
    assert max(one.values[0] for one in finalists) <= min(one.values[0] for one in result.outcomes[3 : 12 - num_failed])
    text = (tmp_path / "sweep.md").read_text(encoding="utf-8")
    assert "Searched lora.r=4 / 8 / 13, train.learning_rate=0.0001..0.01:log with TPE (Optuna 5" in text
    assert "12 trials" in text and "seed 17 for each trial, and with 2 seeds (17, 18) for each finalist" in text
    assert "All other settings that were trained to the end are worse." not in text
    assert "All other finalists are worse." in text


def test_trials_are_stopped_at_the_stages_of_successive_halving(tmp_path, trained):
    result = sweep(tmp_path, plan(keep=3, num_trials=9), silent())
    by_epochs = {
        length: sum(1 for _, epochs, seed in trained if (epochs, seed) == (length, 17)) for length in (1, 3, 9)
    }
    assert by_epochs[1] == 9 and 9 > by_epochs[3] >= by_epochs[9] >= 1
    said = [one.verdict for one in result.outcomes]
    assert "stopped after 1/9 of the training" in said and said[0] == "best" and len(said) == 9


@pytest.mark.parametrize("keep", [None, 3])
def test_killed_anywhere_it_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, keep):
    """At every third run: the search is interrupted in it, continued, and ends as one that was not."""
    given = plan(keep, num_trials=9 if keep else 12)
    trained = train_at_once(monkeypatch, nats)
    whole = sweep(tmp_path / "whole", given, silent())
    for number in range(1, len(trained) + 1, 3):
        folder = tmp_path / str(number)
        before = train_at_once(monkeypatch, nats, interrupted_at=number)
        with pytest.raises(KeyboardInterrupt):
            sweep(folder, given, silent())
        assert before == trained[:number]
        again = train_at_once(monkeypatch, nats)
        assert sweep(folder, None, silent()) == whole
        # The interrupted run, what came after it, and those that had failed are trained; nothing else is.
        expected = [one for one in trained[: number - 1] if one[0] == 13] + trained[number - 1 :]
        assert sorted(again) == sorted(expected)


def test_the_folders_of_the_runs_say_what_was_tried(tmp_path, trained):
    """As if another version of Optuna had proposed them: they are neither repeated nor forgotten."""
    given = plan()
    sweep(tmp_path, given, silent())
    run = run_folder(tmp_path, "setting-01-seed-17")
    config = read_config(run)
    changed = config.model_copy(update={"train": config.train.model_copy(update={"learning_rate": 0.00123})})
    write_config(run, changed)
    for number in (11, 12):
        name = f"setting-{number}-seed-17"
        shutil.rmtree(run_folder(tmp_path, name))
        for path in (tmp_path / "measured").glob(f"{name}*"):
            path.unlink()
    result = sweep(tmp_path, None, silent())
    assert {one.setting.number: one for one in result.outcomes}[1].setting.values["train.learning_rate"] == "0.00123"
    write_config(run, config.model_copy(update={"train": config.train.model_copy(update={"learning_rate": 0.5})}))
    with pytest.raises(FalconerError, match="was trained with train.learning_rate=0.5, which this search does not try"):
        sweep(tmp_path, None, silent())


def test_a_figure_that_is_not_measured_ends_the_search_at_its_first_trial(tmp_path, trained):
    given = make_plan(None, ["lora.r=4..8"], num_seeds=1, by="hits_1", keep=None, resamples=100, num_trials=3)
    with pytest.raises(FalconerError, match="hits_1 was not measured"):
        sweep(tmp_path, given, silent())
    assert len(trained) == 1
