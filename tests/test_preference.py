"""Which settings does a preference training take over, and what does it say that training will have seen?"""

import json
import shutil

import pytest

from command_line import falconer, ok
from falconer.errors import FalconerError
from falconer.evaluate.text.predictions import read_predictions
from falconer.preference import config_for
from falconer.run.folder import read_record, read_splits
from small_runs import Small, write_dialogues

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    small, test = Small(folder), write_dialogues(folder / "test.jsonl", 5, seed=9)
    limits = ("evaluate.max_new_tokens=6", "evaluate.resamples=100", "evaluate.num_samples=2")
    small.run(folder / "tuned", f"data.test={test}", "train.max_steps=2", "train.validate_every=2", *limits)
    return folder / "tuned"


def test_one_epoch_at_a_tenth_of_the_rate_and_whatever_else_is_asked_for(tuned):
    config = config_for(tuned, "distractors", ["prefer.beta=2"])
    assert config.train.learning_rate == pytest.approx(5e-4) and config.train.epochs == 1
    assert config.train.max_steps is None and config.train.validate_every is None
    assert config.lora.init_adapter == str(tuned / "adapter") and config.prefer.pairs == "distractors"
    assert config.prefer.beta == 2 and config.train.step_tokens == 400
    assert config_for(tuned, "distractors", ["train.learning_rate=1e-6"]).train.learning_rate == 1e-6


def test_settings_of_a_preference_training_are_taken_over_from_another_one_alone(tuned, tmp_path):
    """A training of gold replies records them without using them, so that an older version's defaults would stay."""
    run = tmp_path / "run"
    shutil.copytree(tuned, run)
    (run / "manifest.json").unlink()
    settings = (run / "config.yaml").read_text()
    assert "  num_samples: 16" in settings and "  pairs: null" in settings
    older = settings.replace("  num_samples: 16", "  num_samples: 8")
    (run / "config.yaml").write_text(older)
    assert config_for(run, "samples", []).prefer.num_samples == 16
    (run / "config.yaml").write_text(older.replace("  pairs: null", "  pairs: samples"))
    assert config_for(run, "samples", []).prefer.num_samples == 8


def test_a_rate_that_was_chosen_by_the_models_size_is_the_recorded_one(tuned, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tuned, run)
    (run / "manifest.json").unlink()
    settings = (run / "config.yaml").read_text()
    assert "learning_rate: 0.005" in settings
    (run / "config.yaml").write_text(settings.replace("learning_rate: 0.005", "learning_rate: null"))
    record = json.loads((run / "run.json").read_text())
    assert record["learning_rate"] == 0.005
    assert config_for(run, "distractors", []).train.learning_rate == pytest.approx(5e-4)
    for damaged in (None, "fast", True, 0, -1, 1e400, []):
        (run / "run.json").write_text(json.dumps(record | {"learning_rate": damaged}))
        with pytest.raises(FalconerError, match=r"run\.json' is damaged"):
            config_for(run, "distractors", [])


def test_votes_on_test_dialogues_count_as_seen(tuned, tmp_path):
    run = tmp_path / "tuned"
    shutil.copytree(tuned, run)
    ok("evaluate", "--run", run)
    before = {(row.dialogue_id, row.turn): row.prediction for row in read_predictions(run / "predictions-base.jsonl")}
    tuned_rows = read_predictions(run / "predictions-tuned.jsonl")
    rows = [row for row in tuned_rows if before[row.dialogue_id, row.turn] != row.prediction]
    assert rows
    votes = [
        {"dialogue_id": row.dialogue_id, "turn": row.turn, "left": "base", "right": "tuned", "vote": "right"}
        for row in rows
    ]
    file = tmp_path / "votes.json"
    file.write_text(json.dumps({"votes": votes}))
    result = falconer(
        "prefer", "--run", run, "--out", tmp_path / "new", "--pairs", f"distractors,votes:{file}", "train.max_steps=1"
    )
    assert result.code == 0, result.err
    record = read_record(tmp_path / "new")
    assert record["leakage"]["test"]["shared_dialogues"] == len({row.dialogue_id for row in rows})
    assert "no longer of unseen dialogues" in result.err
    assert read_splits(tmp_path / "new") != read_splits(run)


def test_an_adapter_from_elsewhere_has_no_dialogues_to_build_pairs_from(tuned, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tuned, run)
    (run / "manifest.json").unlink()
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"imported": {"sha256": "x"}}))
    result = falconer("prefer", "--run", run, "--out", tmp_path / "new")
    assert result.code == 2 and "was not trained here" in result.err
