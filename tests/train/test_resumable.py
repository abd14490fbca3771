"""A run that lacks what --resume needs is refused before its files are touched, unless nothing can be lost."""

import json
import shutil
from pathlib import Path

import pytest

from falconer.errors import FalconerError
from falconer.files.replace import sha256
from falconer.run.manifest import sealed, write_folder_manifest
from falconer.train.resumable import check_resumable
from small_runs import Small, exact


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return Small(tmp_path_factory.mktemp("resumable"))


@pytest.fixture(scope="module")
def finished(small):
    small.run(small.train.parent / "run")
    return small.train.parent / "run"


@pytest.fixture
def run(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "run"))


def snapshot(run):
    return {path.relative_to(run): sha256(path) for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


def killed_after(run, num_steps):
    """Leave what a process that was killed after so many steps leaves, before any validation."""
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "adapter")
    rows = (run / "steps.jsonl").read_text().splitlines(keepends=True)[:num_steps]
    (run / "steps.jsonl").write_text("".join(rows))
    change(run, how="running", step=0, best_step=0, best_loss=None)


def change(run, **fields):
    path = run / "training.json"
    tree = json.loads(path.read_text()) | fields
    del tree["sha256"]
    path.write_text(json.dumps(sealed(tree)))


def refused(small, run, *parts):
    before = snapshot(run)
    with pytest.raises(FalconerError) as caught:
        small.run(run, resume=True)
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert snapshot(run) == before


def test_a_finished_run_whose_checkpoints_were_removed_keeps_what_it_has(small, run):
    shutil.rmtree(run / "checkpoints")
    refused(
        small, run, "has finished training (6 steps) and its folder 'checkpoints/last' was removed", "another --run"
    )


def test_one_of_a_version_without_training_json_keeps_what_it_has(small, run):
    shutil.rmtree(run / "checkpoints")
    (run / "training.json").unlink()
    refused(small, run, "would start again from the first step", "the record of 6 steps", "Restore the folder")


@pytest.mark.parametrize("how", ["interrupted", "failed", "running"])
def test_an_unfinished_run_with_a_validation_keeps_what_it_has(small, run, how):
    shutil.rmtree(run / "checkpoints")
    change(run, how=how)
    refused(small, run, "would start again from the first step", "another --run")


def test_an_interrupted_run_had_a_checkpoint(small, run):
    killed_after(run, 2)
    change(run, how="interrupted", step=2)
    refused(small, run, "the record of 2 steps")


def test_steps_beyond_the_first_checkpoint_had_one(run):
    killed_after(run, 2)
    with pytest.raises(FalconerError, match="the record of 2 steps"):
        check_resumable(run, save_every=1)
    # Killed between the step and its checkpoint: it may not have been saved.
    assert check_resumable(run, save_every=2) == []
    with (run / "steps.jsonl").open("a") as file:
        file.write('{"step": 2, "valid_loss": 3.0}\n')
    assert check_resumable(run, save_every=None) == []


def test_a_run_killed_before_its_first_checkpoint_begins_again(small, finished, run):
    killed_after(run, 2)
    small.run(run, resume=True)
    assert exact(run) == exact(finished)


def test_a_run_whose_best_adapter_was_removed_is_not_continued(small, run):
    shutil.rmtree(run / "adapter")
    said = ("has finished training, but its folder 'adapter', the best adapter (step ", "--adapter checkpoints/last")
    refused(small, run, *said)
    change(run, how="interrupted")
    refused(small, run, "can't be continued: its folder 'adapter'", "Restore the folder from a copy")


def test_an_adapter_that_a_killed_process_had_moved_away_is_restored(small, run):
    (run / "adapter").rename(run / ".adapter.old")
    assert small.run(run, resume=True).ended == "finished"
    assert (run / "adapter" / "adapter_config.json").is_file()


@pytest.mark.parametrize(
    "damage",
    [
        lambda rows: [],
        lambda rows: rows[:3],
        lambda rows: [*rows[:2], rows[2][:9]],
        lambda rows: [rows[0].replace('"loss": ', '"loss": 1'), *rows[1:]],
        lambda rows: ["\0" * len("".join(rows))],
    ],
)
def test_lost_and_damaged_rows_are_restored_from_the_checkpoint_and_said(run, damage):
    path = run / "steps.jsonl"
    rows = path.read_text()
    path.write_text("".join(damage(rows.splitlines(keepends=True))))
    (said,) = check_resumable(run, None)
    assert f"'{path}' had lost or damaged rows; those of 6 steps were restored" in said
    assert path.read_text() == rows and check_resumable(run, None) == []


def test_a_folder_in_place_of_the_rows_is_refused(small, run):
    (run / "steps.jsonl").unlink()
    (run / "steps.jsonl").mkdir()
    with pytest.raises(FalconerError, match="steps.jsonl' is damaged: it is a folder"):
        check_resumable(run, None)


@pytest.mark.parametrize(("field", "value"), [("step", 5), ("step", 99), ("best_loss", 1.0), ("position", 0)])
def test_a_changed_number_in_the_checkpoint_is_noticed(small, run, field, value):
    path = run / "checkpoints" / "last" / "state.json"
    tree = json.loads(path.read_text())
    path.write_text(json.dumps({**tree, "progress": {**tree["progress"], field: value}}))
    refused(small, run, "state.json' is damaged: the hash of state.json differs", "another --run")


@pytest.mark.parametrize("field", ["step", "best_loss"])
def test_a_wrong_type_in_a_checkpoint_of_an_older_version_is_named(small, run, field):
    last = run / "checkpoints" / "last"
    (last / "manifest.json").unlink()
    tree = json.loads((last / "state.json").read_text())
    del tree["has_manifest"]
    (last / "state.json").write_text(json.dumps({**tree, "progress": {**tree["progress"], field: "x"}}))
    refused(small, run, f"state.json, '{field}'")


def test_a_step_beyond_the_plan_is_refused(small, run):
    last = run / "checkpoints" / "last"
    tree = json.loads((last / "state.json").read_text())
    (last / "state.json").write_text(json.dumps({**tree, "progress": {**tree["progress"], "step": 99}}))
    write_folder_manifest(last)
    refused(small, run, "it is of step 99, but the run has 6 steps")


def test_a_curve_that_a_killed_process_did_not_draw_and_its_litter(small, finished, run):
    (run / "loss_curve.png").unlink()
    litter = run / "checkpoints" / ".last.0123456789abcdef.partial"
    litter.mkdir()
    (run / ".loss_curve.png.0123456789abcdef.partial").write_text("half")
    small.run(run, resume=True)
    assert (run / "loss_curve.png").read_bytes() == (finished / "loss_curve.png").read_bytes()
    assert not [path for path in run.rglob(".*")]
