"""Is a run that was interrupted and resumed, bit for bit, the run that never was?

Two processes of the real command: one gets a Ctrl-C, one is killed between two checkpoints, and both are resumed by new
processes. A third run is left alone. Dropout is on.
"""

import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from small_runs import command, exact, steps

NUM_STEPS = 80
OVERRIDES = (
    f"train.max_steps={NUM_STEPS}", "train.epochs=20", "lora.dropout=0.05", "train.micro_tokens=200",
    "train.validate_every=20", "train.save_every=20", "train.patience=9",
)  # fmt: skip
TIMEOUT = 240


def signal_at(*points):
    """Send each process its signal as soon as its run has done so many steps.

    Args:
        points: (process, run, steps, signal).
    """
    deadline, waiting = time.monotonic() + TIMEOUT, list(points)
    while waiting:
        for point in list(waiting):
            process, run, count, number = point
            if len(steps(run)) >= count:
                process.send_signal(number)
                waiting.remove(point)
            else:
                assert process.poll() is None and time.monotonic() < deadline, process.communicate(timeout=9)[1]
        time.sleep(0.005)


def end(process):
    _, err = process.communicate(timeout=TIMEOUT)
    return process.returncode, err


def check_quiet(err):
    """A normal run says what it does and nothing else: no warning of any library."""
    for line in err.splitlines():
        known = "(model|prompt|precision|path|base|memory|data|shared|note    The data has no test split,) "
        assert re.match(known + r"|step \d+[ /]|Interrupted after|Continue with:|Done after|Next:", line), line


def progress_of(run):
    return json.loads((run / "checkpoints" / "last" / "state.json").read_text())["progress"]


@pytest.fixture(scope="module")
def story(small, tmp_path_factory) -> dict[str, Path]:
    """The folders of the three runs, told to their ends."""
    folder = tmp_path_factory.mktemp("resume")
    runs = {name: folder / name for name in ("alone", "stopped", "killed")}
    started: list[subprocess.Popen[str]] = []

    def start(*arguments, warnings="error"):
        started.append(command(arguments, warnings=warnings))
        return started[-1]

    try:
        tell(small, runs, start)
    finally:
        for process in started:
            process.kill()
            process.communicate()
    return runs


def tell(small, runs, start):
    # What a user gets: Python's own rules for warnings.
    stopped = start(*small.arguments(runs["stopped"], *OVERRIDES), warnings="")
    killed = start(*small.arguments(runs["killed"], *OVERRIDES))
    signal_at((stopped, runs["stopped"], 7, signal.SIGINT), (killed, runs["killed"], 26, signal.SIGKILL))
    code, err = end(stopped)
    assert code == 130, err
    assert f"Continue with:  falconer train --run {runs['stopped']} --resume" in err
    assert 7 <= progress_of(runs["stopped"])["step"] < NUM_STEPS
    check_quiet(err)

    assert end(killed)[0] == -signal.SIGKILL
    assert 20 <= progress_of(runs["killed"])["step"] <= len(steps(runs["killed"])) < NUM_STEPS
    # As if the machine had gone down while a row was being written.
    with (runs["killed"] / "steps.jsonl").open("a") as file:
        file.write('{"step": 99, "lo')

    resumed = [start("train", "--run", str(runs[name]), "--resume") for name in ("stopped", "killed")]
    small.run(runs["alone"], *OVERRIDES)
    for process in resumed:
        code, err = end(process)
        assert code == 0, err
        assert f"Done after {NUM_STEPS} steps" in err
        check_quiet(err)


both = pytest.mark.parametrize("name", ["stopped", "killed"])


@both
def test_every_step_is_the_same_bit_for_bit(story, name):
    assert exact(story[name]) == exact(story["alone"])
    assert len(steps(story[name])) == NUM_STEPS


@both
def test_the_files_are_the_same_byte_for_byte(story, name):
    for path in (
        "adapter/adapter_model.safetensors", "checkpoints/last/adapter_model.safetensors",
        "checkpoints/last/optimizer.safetensors",
    ):  # fmt: skip
        assert (story[name] / path).read_bytes() == (story["alone"] / path).read_bytes(), path


@both
def test_the_place_in_the_data_and_the_best_loss_are_the_same(story, name):
    ours, expected = progress_of(story[name]), progress_of(story["alone"])
    assert ours.pop("trained_s") > 0 and expected.pop("trained_s") > 0
    assert ours == expected and ours["step"] == NUM_STEPS


@both
def test_tensorboard_shows_each_step_once(story, name):
    events = EventAccumulator(str(story[name] / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, NUM_STEPS + 1))
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(
        [row["loss"] for row in steps(story["alone"])], rel=1e-6
    )


def test_a_finished_run_resumes_to_its_end_at_once(story, falconer, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(story["alone"], run)
    code, err = falconer("train", "--run", str(run), "--resume")
    assert code == 0 and f"Done after {NUM_STEPS} steps" in err
    assert exact(run) == exact(story["alone"])
