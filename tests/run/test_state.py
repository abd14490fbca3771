"""A run says whether it is being trained, how it ended, and how that is known; a killed one is not "running"."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_line import SOURCE, falconer
from falconer.config import load
from falconer.errors import FalconerError
from falconer.files.locks import RUN_LOCK, lock_run
from falconer.records import StepRow
from falconer.run.folder import STEPS, TRAINING, read_steps, write_run, write_steps
from falconer.run.state import How, read_training, state_of, training, write_training
from small_runs import Small, command

ROWS: list[StepRow] = [
    {"step": 1, "loss": 4.0, "lr": 1e-3, "epoch": 0.5},
    {"step": 2, "loss": 3.5, "lr": 1e-3, "epoch": 1.0},
    {"step": 2, "valid_loss": 3.25},
]
TRAINER = """
import sys, time
from pathlib import Path
from falconer.files.locks import lock_run
from falconer.run.state import training
run = Path(sys.argv[1])
with lock_run(run), training(run):
    print("trains", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of four steps, two of which were done, by a version that wrote no training.json."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_run(folder, load("quickstart", ["train.patience=2"]), {"num_steps": 4})
    write_steps(folder, ROWS)
    return folder


@pytest.fixture
def trainer(run: Path) -> "Iterator[subprocess.Popen[str]]":
    """Another process that trains the run."""
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINER, str(run)], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
    )  # fmt: skip
    assert process.stdout and process.stdout.readline() == "trains\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_run_that_a_process_trains_is_running_and_killed_it_is_not(
    run: Path, trainer: "subprocess.Popen[str]"
) -> None:
    state = state_of(run)
    assert state.stage == "running" and state.known_by.startswith(f"in use by process {trainer.pid} (")
    trainer.send_signal(signal.SIGKILL)
    trainer.wait()
    state = state_of(run)
    assert state.stage == "killed"
    assert state.known_by == f"{TRAINING} says that it is running, but no running process holds {RUN_LOCK}"


def test_whoever_holds_the_lock_of_a_trained_run_evaluates_it(run: Path) -> None:
    write_training(run, "finished", 4, 4, 3.25, 2)
    with lock_run(run):
        assert state_of(run).stage == "evaluating"
    assert state_of(run).stage == "finished"


@pytest.mark.parametrize(
    ("how", "stage"), [("finished", "finished"), ("early", "stopped early"), ("interrupted", "interrupted")]
)
def test_what_was_written_when_training_stopped_is_what_is_told(run: Path, how: How, stage: str) -> None:
    with training(run):
        begun = read_training(run)
        write_training(run, how, 4, 4, 3.25, 2)
    assert begun and (begun.how, begun.step, begun.num_steps, begun.best_loss) == ("running", 2, 4, 3.25)
    state = state_of(run)
    assert state.stage == stage and state.known_by.startswith(f"{TRAINING}, written 20")
    ended = read_training(run)
    assert ended and (ended.step, ended.num_steps, ended.best_loss, ended.best_step) == (4, 4, 3.25, 2)


def test_an_error_is_written_down_and_goes_on(run: Path) -> None:
    with pytest.raises(ZeroDivisionError), training(run):
        _ = 1 / 0
    state = state_of(run)
    assert (state.stage, state.why) == ("failed", "ZeroDivisionError: division by zero")
    ended = read_training(run)
    assert ended and (ended.step, ended.num_steps, ended.best_loss, ended.best_step) == (2, 4, 3.25, 2)
    with pytest.raises(KeyboardInterrupt), training(run):
        raise KeyboardInterrupt
    assert state_of(run).stage == "interrupted"


def test_before_any_validation_there_is_no_best_loss(run: Path) -> None:
    write_training(run, "interrupted", 1, 4, float("inf"), 0)
    ended = read_training(run)
    assert ended and ended.best_loss is None


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with training(tmp_path / "none", is_main=False):
        assert not (tmp_path / "none").exists()


def test_a_run_of_an_older_version_is_judged_by_its_steps(run: Path) -> None:
    assert state_of(run).stage == "unknown"
    os.utime(run / STEPS, (time.time() - 7300, time.time() - 7300))
    state = state_of(run)
    assert state.stage == "interrupted" and "2 hours ago" in state.known_by
    assert f"the run's version did not write {TRAINING}" in state.known_by
    worse: list[StepRow] = [*ROWS, {"step": 3, "valid_loss": 3.5}]
    write_steps(run, worse)
    assert state_of(run).stage == "unknown"
    write_steps(run, [*worse, {"step": 3, "valid_loss": 3.25}])
    assert state_of(run).stage == "stopped early"
    write_steps(run, [*ROWS, {"step": 4, "loss": 3.0}])
    assert state_of(run).stage == "finished"
    (run / STEPS).unlink()
    assert state_of(run).stage == "not started"


def test_an_adapter_from_elsewhere_was_imported(tmp_path: Path) -> None:
    write_run(tmp_path, load(None), {"imported": {"given": "them/theirs", "sha256": "0"}})
    state = state_of(tmp_path)
    assert (state.stage, state.known_by) == ("imported", "an adapter that was trained elsewhere (them/theirs)")
    listed = falconer("runs", tmp_path).out
    assert "imported" in listed and "0/?" not in listed


def test_damage_is_named(run: Path) -> None:
    (run / TRAINING).write_text('{"how": "well"}')
    with pytest.raises(FalconerError, match=rf"{TRAINING}' is damaged: at 'how'.*rm "):
        state_of(run)


@pytest.mark.usefixtures("one_thread")
def test_the_real_command_writes_how_it_ended(tmp_path: Path) -> None:
    small = Small(tmp_path)
    result = falconer(*small.arguments(tmp_path / "run", "train.max_steps=3"))
    assert result.code == 0, result.err
    ended = read_training(tmp_path / "run")
    assert ended and (ended.how, ended.step, ended.num_steps, ended.best_step) == ("finished", 3, 3, 3)
    result = falconer(*small.arguments(tmp_path / "wild", "train.learning_rate=1e30", "train.clip_norm=1e30"))
    assert result.code == 2
    assert state_of(tmp_path / "wild").stage == "failed" and "not finite" in state_of(tmp_path / "wild").why
    # Killed amid its steps, as a machine that goes down would.
    process = command(small.arguments(tmp_path / "killed", "train.max_steps=4000", "train.patience=1000"))
    end = time.monotonic() + 120
    while not (tmp_path / "killed" / STEPS).is_file() or not read_steps(tmp_path / "killed"):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    assert state_of(tmp_path / "killed").stage == "running"
    process.kill()
    process.communicate()
    assert state_of(tmp_path / "killed").stage == "killed"
