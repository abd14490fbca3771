"""A run says whether it is being trained, how it ended, and how that is known; a killed one is not "running"."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from command_line import SOURCE, falconer
from falconer import run_state
from falconer.config import load
from falconer.errors import FalconerError
from falconer.files import replace_file
from falconer.run_folder import ENDED, LOCK, STEPS, StepRow, read_steps, write_run, write_steps
from falconer.run_state import check_not_training, read_ended, state_of, training, write_ended
from small_runs import Small, command

ROWS: list[StepRow] = [
    {"step": 1, "loss": 4.0, "lr": 1e-3, "epoch": 0.5},
    {"step": 2, "loss": 3.5, "lr": 1e-3, "epoch": 1.0},
    {"step": 2, "valid_loss": 3.25},
]
HOLDER = "import sys, time\nfrom pathlib import Path\nfrom falconer.run_state import training\n" + (
    "with training(Path(sys.argv[1])):\n    print('trains', flush=True)\n    time.sleep(600)\n"
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of four steps, two of which were done, by a version that knew no lock and no ended.json."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_run(folder, load("quickstart", ["train.patience=2"]), {"num_steps": 4})
    write_steps(folder, ROWS)
    return folder


@pytest.fixture
def trainer(run: Path):
    """Another process that trains the run."""
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout and process.stdout.readline() == "trains\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_run_that_a_process_trains_is_running_and_killed_it_is_not(run: Path, trainer: subprocess.Popen[str]) -> None:
    write_ended_before = run / ENDED
    assert not write_ended_before.exists()
    state = state_of(run)
    assert state.stage == "running" and state.known_by.startswith(f"process {trainer.pid} on ")
    trainer.send_signal(signal.SIGKILL)
    trainer.wait()
    state = state_of(run)
    assert (state.stage, state.known_by) == ("killed", f"nobody holds {LOCK}, and {ENDED} was not written")


def test_nobody_else_trains_it_meanwhile(run: Path, trainer: subprocess.Popen[str]) -> None:
    with pytest.raises(FalconerError, match=rf"is being trained by process {trainer.pid} on .* Ctrl-C"):
        check_not_training(run)
    with pytest.raises(FalconerError, match="is being trained"), training(run):
        pytest.fail("two processes would write into one run")
    result = falconer("train", "--run", run, "--resume")
    assert result.code == 2 and f"is being trained by process {trainer.pid}" in result.err
    trainer.kill()
    trainer.wait()
    check_not_training(run)


def test_a_look_at_the_lock_keeps_nobody_from_training(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    with training(run):
        pass
    with (run / LOCK).open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        monkeypatch.setattr(time, "sleep", lambda seconds: fcntl.flock(file, fcntl.LOCK_UN))
        with training(run):
            assert state_of(run).stage == "running"


@pytest.mark.parametrize(
    ("how", "stage"), [("finished", "finished"), ("early", "stopped early"), ("interrupted", "interrupted")]
)
def test_what_was_written_when_training_stopped_is_what_is_told(run: Path, how: run_state.How, stage: str) -> None:
    with training(run):
        write_ended(run, how, 4, 4, 3.25, 2)
    state = state_of(run)
    assert state.stage == stage and state.known_by.startswith(f"{ENDED}, written 20")
    ended = read_ended(run)
    assert ended and (ended.step, ended.num_steps, ended.best_loss, ended.best_step) == (4, 4, 3.25, 2)
    with training(run):
        assert not (run / ENDED).exists(), "it trains again: the end of before is none"


def test_an_error_is_written_down_and_goes_on(run: Path) -> None:
    with pytest.raises(ZeroDivisionError), training(run):
        _ = 1 / 0
    state = state_of(run)
    assert (state.stage, state.why) == ("failed", "ZeroDivisionError: division by zero")
    ended = read_ended(run)
    assert ended and (ended.step, ended.num_steps, ended.best_loss, ended.best_step) == (2, 4, 3.25, 2)
    with pytest.raises(KeyboardInterrupt), training(run):
        raise KeyboardInterrupt
    assert state_of(run).stage == "interrupted"


def test_before_any_validation_there_is_no_best_loss(run: Path) -> None:
    write_ended(run, "interrupted", 1, 4, float("inf"), 0)
    ended = read_ended(run)
    assert ended and ended.best_loss is None


def test_other_ranks_do_nothing(tmp_path: Path) -> None:
    with training(tmp_path / "none", is_main=False):
        assert not (tmp_path / "none").exists()


def test_the_lock_of_another_machine_tells_nothing_so_the_age_of_the_steps_does(run: Path) -> None:
    (run / LOCK).write_text(json.dumps({"host": "node7", "pid": 3, "is_locked": True}))
    state = state_of(run)
    assert state.stage == "running" and "of node7 tells nothing here" in state.known_by
    assert "0 minutes ago" in state.known_by
    os.utime(run / STEPS, (time.time() - 7300, time.time() - 7300))
    state = state_of(run)
    assert state.stage == "killed" and "2 hours ago" in state.known_by


def test_a_run_of_an_older_version_is_judged_by_its_steps(run: Path) -> None:
    assert state_of(run).stage == "unknown"
    os.utime(run / STEPS, (0, 0))
    state = state_of(run)
    assert state.stage == "interrupted" and f"the run's version wrote no {ENDED}" in state.known_by
    worse: list[StepRow] = [*ROWS, {"step": 3, "valid_loss": 3.5}]
    write_steps(run, worse)
    assert state_of(run).stage == "unknown"
    write_steps(run, [*worse, {"step": 3, "valid_loss": 3.25}])
    assert state_of(run).stage == "stopped early"
    write_steps(run, [*ROWS, {"step": 4, "loss": 3.0}])
    assert state_of(run).stage == "finished"
    (run / STEPS).unlink()
    assert state_of(run).stage == "not started"


@pytest.mark.parametrize("file", [ENDED, LOCK])
def test_damage_is_named(run: Path, file: str) -> None:
    with replace_file(run / file) as aside:
        aside.write_text('{"how": "well"}')
    with pytest.raises(FalconerError, match=rf"{file}' is damaged: at '\w+'.*rm "):
        state_of(run)


@pytest.mark.usefixtures("one_thread")
def test_the_real_command_writes_how_it_ended(tmp_path: Path) -> None:
    small = Small(tmp_path)
    result = falconer(*small.arguments(tmp_path / "run", "train.max_steps=3"))
    assert result.code == 0, result.err
    ended = read_ended(tmp_path / "run")
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
