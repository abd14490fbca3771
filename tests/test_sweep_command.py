"""`falconer sweep` through the real command line: killed in the middle, it goes on where it was."""

import json
import os
import signal
import time
from importlib.util import find_spec

import pytest

from command_line import SOURCE, falconer
from falconer.run.folder import read_config, read_steps
from falconer.sweep.folder import is_measured
from small_runs import Small, command, exact, write_dialogues

pytestmark = pytest.mark.usefixtures("one_thread")


def wait_until(condition, process):
    deadline = time.monotonic() + 280
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.05)


def test_killed_and_continued(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))  # for the processes of the second call
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    small = Small(tmp_path)
    write_dialogues(small.valid, 24, seed=6)
    kept = [
        one
        for one in small.settings
        if not one.startswith(("train.learning_rate", "train.max", "train.ep", "train.val"))
    ]
    length = ["train.max_steps=120", "train.epochs=200", "train.validate_every=60", "train.save_every=5"]
    common = [*kept, *length, "evaluate.max_replies=4", "evaluate.max_new_tokens=3"]
    out = tmp_path / "sweep"
    arguments = ["sweep", *common, "train.learning_rate=1e-2,1e-6", "--seeds", "1", "--out", str(out)]
    first, second = (out / "runs" / f"setting-0{number}-seed-17" for number in (1, 2))
    process = command([*arguments, "--resamples", "200"])
    try:
        wait_until(lambda: (second / "checkpoints" / "last").is_dir() and len(read_steps(second)) > 4, process)
    finally:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert is_measured(out, first.name) and not is_measured(out, second.name)
    before = (first / "steps.jsonl").stat().st_mtime_ns, len(exact(second))
    assert 0 < before[1] < 120
    # Without its settings: the folder has them.
    result = falconer("sweep", "--out", str(out))
    assert result.code == 0, result.err
    assert "2 runs, 1 of them done before" in result.err
    assert (first / "steps.jsonl").stat().st_mtime_ns == before[0]
    assert [row["step"] for row in exact(second) if "loss" in row] == list(range(1, 121))
    assert "| 1e-2 |" in result.out and "| best |" in result.out
    assert (out / "sweep.md").read_text(encoding="utf-8") == result.out
    best, other = json.loads((out / "results.json").read_text())["settings"]
    assert best["settings"] == {"train.learning_rate": "1e-2"} and other["verdict"] == "worse, with its one seed"
    # Other settings in the same folder are another sweep.
    refused = falconer("sweep", "lora.r=2,4", "--out", str(out))
    assert refused.code == 2 and "contains another sweep" in refused.err


@pytest.mark.skipif(find_spec("optuna") is None, reason="optuna is not installed")
def test_a_search_killed_and_continued(tmp_path, monkeypatch):
    """Killed outright, while the process of a trial goes on."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    small = Small(tmp_path)
    write_dialogues(small.valid, 24, seed=6)
    kept = [one for one in small.settings if not one.startswith(("train.learning_rate", "lora.r"))]
    out = tmp_path / "search"
    searched = [
        "train.learning_rate=1e-6..1e-2:log",
        "lora.r=2..8:2",
        "evaluate.max_replies=4",
        "evaluate.max_ranked=0",
    ]
    arguments = ["sweep", *kept, *searched, "--trials", "2", "--finalists", "2", "--seeds", "1", "--out", str(out)]
    first, second = (out / "runs" / f"setting-0{number}-seed-17" for number in (1, 2))
    process = command([*arguments, "--resamples", "200"])
    try:
        wait_until(lambda: (second / "config.yaml").is_file(), process)
    finally:
        process.kill()
        process.communicate(timeout=120)
    tried = [read_config(run) for run in (first, second)]
    assert is_measured(out, first.name) and not is_measured(out, second.name)
    result = falconer("sweep", "--out", str(out))
    assert result.code == 0, result.err
    assert "2 finalists, with 1 seed" in result.err and "| best |" in result.out and "with TPE (Optuna" in result.out
    assert [read_config(run) for run in (first, second)] == tried
    assert {path.name for path in (out / "runs").iterdir()} == {first.name, second.name}
    answer = json.loads((out / "results.json").read_text())
    assert answer["plan"]["search"]["seed"] == 17 and answer["optuna"]
    assert {row["settings"]["lora.r"] for row in answer["settings"]} == {str(config.lora.r) for config in tried}


def test_a_search_without_optuna_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setattr("falconer.sweep.proposals.find_spec", lambda name: None)
    result = falconer("sweep", "lora.r=2..8", "--trials", "3", "--out", tmp_path / "s")
    assert result.code == 2 and "pip install 'optuna" in result.err and not (tmp_path / "s").exists()


def test_mistakes_are_found_at_once(tmp_path):
    result = falconer("sweep", "train.epochs=1", "--out", tmp_path / "s")
    assert result.code == 2 and "No key has several values" in result.err and not (tmp_path / "s").exists()
    assert "contains no sweep" in falconer("sweep", "--out", tmp_path / "s").err
    assert "is not a figure" in falconer("sweep", "lora.r=1,2", "--by", "loss", "--out", tmp_path / "s").err
