"""Two commands in one run's folder: one goes on, the other ends in one line before it loads anything."""

import json
import os
import shutil
import signal
import stat
import time

import pytest

from falconer.files.locks import is_held, lock_run
from falconer.files.replace import sha256
from falconer.jobs import open_run
from falconer.run.folder import read_config
from falconer.train import job, loop
from small_runs import command, exact, steps

TIMEOUT = 240
LONG = ("train.max_steps=500", "train.epochs=999", "train.patience=999", "train.validate_every=100")


def refused(result, run):
    code, err = result
    assert code == 2 and err.count("\n") == 1 and err.startswith(f"falconer: '{run}' is in use: process {os.getpid()}")


def nothing_is_loaded(*_, **__):
    pytest.fail("it has begun to load")


def snapshot(run):
    return {path.relative_to(run): sha256(path) for path in run.rglob("*") if path.is_file()}


def test_whatever_writes_into_a_run_is_refused_while_another_does(small, finished, falconer, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    monkeypatch.setattr(loop, "load_model", nothing_is_loaded)
    monkeypatch.setattr("falconer.jobs.load_model", nothing_is_loaded)
    monkeypatch.setattr(loop.setup, "load_dialogues", nothing_is_loaded)
    monkeypatch.setattr(loop.setup, "resume_dialogues", nothing_is_loaded)
    with lock_run(run):
        before = snapshot(run)
        refused(falconer("train", "--run", str(run), "--resume"), run)
        refused(falconer("evaluate", "--run", str(run)), run)
        refused(falconer(*small.arguments(run)), run)
        refused(falconer("share", "--run", str(run), "--repo", "a/b", "--base-model", "a/c"), run)
        assert snapshot(run) == before
    with lock_run(tmp_path / "new"):
        refused(falconer(*small.arguments(tmp_path / "new")), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_of_two_trainings_one_goes_on(small, tmp_path):
    """And of two resumes, after both were interrupted; the run is what it would have been."""
    run = tmp_path / "run"
    trainings = [command(small.arguments(run, *LONG, f"train.seed={seed}")) for seed in (17, 99)]
    errs = end_all_but_one(trainings, run)
    assert sorted(errs) == [2, 130], errs
    assert "is in use: process" in errs[2] and errs[2].count("\n") == 1
    seed = read_config(run).train.seed
    assert f"process {trainings[(17, 99).index(seed)].pid} on" in errs[2], "its configuration is the survivor's"
    done = len(steps(run))
    resumes = [command(("train", "--run", str(run), "--resume")) for _ in range(2)]
    errs = end_all_but_one(resumes, run, done)
    assert sorted(errs) == [2, 130], errs
    small.run(tmp_path / "alone", *LONG, f"train.seed={seed}")
    rows = exact(run)
    assert rows == exact(tmp_path / "alone")[: len(rows)] and not is_held(run)


def end_all_but_one(processes, run, done=0):
    """Interrupt the one that goes on once the other has ended; return what they said by their exit codes."""
    deadline = time.monotonic() + TIMEOUT
    try:
        while all(process.poll() is None for process in processes) or len(steps(run)) < done + 2:
            assert time.monotonic() < deadline and not all(process.poll() is not None for process in processes)
            time.sleep(0.05)
        assert is_held(run)
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        return {process.wait(timeout=TIMEOUT): process.communicate()[1] for process in processes}
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_every_file_of_a_run_follows_the_umask(finished):
    """safetensors writes 0600, which kept colleagues out."""
    mask = os.umask(0o022)
    os.umask(mask)
    for path in finished.rglob("*"):
        expected = (0o777 if path.is_dir() else 0o666) & ~mask
        assert stat.S_IMODE(path.stat().st_mode) == expected, path
    assert list(finished.rglob("*.safetensors"))


def test_a_run_leaves_no_hidden_file(finished):
    assert [path for path in finished.rglob(".*")] == []


def test_a_reader_finds_an_adapter_that_its_writer_had_moved_away(finished, tmp_path):
    """Where folders are swapped by two renames, and the writer was killed between them."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "adapter").rename(run / ".adapter.0123456789abcdef.old")
    assert open_run(run).adapter == "adapter"
    assert sorted(os.listdir(run / "adapter")) == sorted(os.listdir(finished / "adapter"))


def test_the_rows_of_a_checkpoints_steps_are_on_the_disk_before_it(small, tmp_path, monkeypatch):
    synced, real, real_sync = [], job.save_checkpoint, job.sync_file

    def save(folder, *rest):
        assert synced and synced[-1] == tmp_path / "run" / "steps.jsonl"
        assert json.loads(synced[-1].read_text().splitlines()[-1])["step"] == rest[2].step
        real(folder, *rest)

    monkeypatch.setattr(job, "sync_file", lambda path: (synced.append(path), real_sync(path)))
    monkeypatch.setattr(job, "save_checkpoint", save)
    small.run(tmp_path / "run", "train.max_steps=4", "train.save_every=2")
    assert len(synced) == 2
