"""A run of a version that kept no hashes of its dialogues still resumes, evaluates, and refuses data that has changed.

fixtures/old_run was trained by falconer 0.1.0 (commit b45d823) on 15 of the 20 dialogues of train.jsonl that it did not
hold out, and interrupted after three of five steps. FOLDER stands for the folder of its model and data.
"""

import json
import shutil
from pathlib import Path

import pytest

from command_line import falconer
from falconer.data.files import packed
from falconer.data.leakage import leakage
from falconer.data.sources import load_dialogues
from falconer.data.splits import hold_out, subset
from falconer.evaluate.text.predictions import read_predictions
from small_runs import steps, validations
from tiny import save_tiny_model

OLD = Path(__file__).parent / "fixtures" / "old_run"
LIMITS = ("evaluate.resamples=100", "evaluate.max_replies=3", "evaluate.num_samples=2")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "falcon", "falcon")


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    """A folder of the run, its data and its model."""
    shutil.copytree(OLD, tmp_path / "run")
    (tmp_path / "run" / "train.jsonl").rename(tmp_path / "train.jsonl")
    (tmp_path / "falcon").symlink_to(model)
    for path in [*tmp_path.glob("run/**/*.json"), tmp_path / "run" / "config.yaml"]:
        path.write_text(path.read_text().replace("FOLDER", str(tmp_path)))
    return tmp_path


def splits_of_then():
    kept, held, _ = hold_out(load_dialogues(str(OLD / "train.jsonl")).dialogues, 0.2, seed=17)
    return subset(kept, 15, 17), held


def test_it_goes_on_with_the_dialogues_that_it_began_with(folder):
    before = steps(folder / "run")
    result = falconer("train", "--run", folder / "run", "--resume")
    assert result.code == 0 and "Done after 5 steps" in result.err, result.err
    rows = steps(folder / "run")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[:3] == before
    # As a run that begins today with the same dialogues and is not interrupted.
    result = falconer("train", "--run", folder / "whole", "--preset", folder / "run" / "config.yaml")
    assert result.code == 0, result.err
    for row, expected in zip(rows, steps(folder / "whole"), strict=True):
        assert {key: row[key] for key in ("epoch", "tokens", "target_tokens")} == {
            key: expected[key] for key in ("epoch", "tokens", "target_tokens")
        }
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert [row["step"] for row in validations(folder / "run")] == [3, 5]
    assert not (folder / "run" / "splits.json").exists()


def test_it_is_evaluated_on_what_it_held_out(folder, monkeypatch):
    reads, read_files = [], packed.read_files
    monkeypatch.setattr(packed, "read_files", lambda path, *limit: [reads.append(path), read_files(path, *limit)][1])
    result = falconer("evaluate", "--run", folder / "run", *LIMITS, "--json")
    assert result.code == 0, result.err
    # Its test split, what its prompts look like and what training has seen are all found in one reading.
    assert reads == [folder / "train.jsonl"]
    trained, held = splits_of_then()
    metrics = json.loads(result.out)
    shared = leakage(trained, held)
    assert metrics["leakage"] == {name: getattr(shared, name) for name in shared.__slots__}
    assert metrics["data"] == json.loads((folder / "run" / "run.json").read_text())["data"]
    asked = {row.dialogue_id for row in read_predictions(folder / "run" / "predictions-tuned.jsonl")}
    assert asked <= {dialogue.id for dialogue in held} and not asked & {dialogue.id for dialogue in trained}


@pytest.mark.parametrize("command", [("train", "--resume"), ("evaluate",)])
def test_its_data_may_move_and_must_not_change(folder, command):
    name, *options = command
    data, moved = folder / "train.jsonl", folder / "elsewhere.jsonl"
    data.rename(moved)
    limits = LIMITS if name == "evaluate" else ()
    result = falconer(name, "--run", folder / "run", *options, *limits)
    assert result.code == 2 and f"There is no file '{data}'" in result.err and "data.train=PATH" in result.err
    text = moved.read_text()
    moved.write_text(text + text.splitlines()[0] + "\n")
    result = falconer(name, "--run", folder / "run", *options, *limits, f"data.train={moved}")
    assert (
        result.code == 2 and f"changed since training began: data.train ('{moved}' instead of '{data}')" in result.err
    )
    moved.write_text(text)
    result = falconer(name, "--run", folder / "run", *options, *limits, f"data.train={moved}")
    assert result.code == 0, result.err
    assert f"data.train: '{moved}' has the same content as '{data}'" in result.err


def test_another_test_file_needs_no_training_data_but_then_nothing_is_known_of_it(folder):
    (folder / "train.jsonl").rename(folder / "mine.jsonl")
    result = falconer("evaluate", "--run", folder / "run", *LIMITS, f"data.test={folder / 'mine.jsonl'}")
    assert result.code == 0, result.err
    assert "Shared with the training data: not measured: There is no file" in result.out.replace("\n", " ")
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    assert metrics["leakage"].startswith("not measured: There is no file")
    assert "persona in training" not in {row["kind"] for row in metrics["slices"]}
    assert "not measured" in (folder / "run" / "report.md").read_text()
