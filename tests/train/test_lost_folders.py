"""Commands whose folder is removed or renamed while they work in it: one line says so, and nothing is made up again."""

import os
import shutil

import pytest

from falconer import jobs
from falconer.share import certificate_tuned
from falconer.sweep import stage
from falconer.train import job
from swept import train_at_once


@pytest.fixture(params=["removed", "renamed"])
def lose(request):
    def lose(run):
        if request.param == "removed":
            shutil.rmtree(run)
        else:
            run.rename(run.with_name("elsewhere"))

    return lose


def before(monkeypatch, owner, name, first):
    """Do something before a function or method of our code, once."""
    real, done = getattr(owner, name), []

    def both(*given, **named):
        if not done:
            done.append(first())
        return real(*given, **named)

    monkeypatch.setattr(owner, name, both)


def is_told(result, run):
    code, err = result
    last = err.splitlines()[-1]
    assert code == 2 and last.startswith(f"falconer: '{run}' was removed or renamed while falconer worked in it"), err
    assert "Traceback" not in err
    return True


@pytest.mark.parametrize("at", ["step", "validate", "save"])
def test_a_training(small, falconer, tmp_path, monkeypatch, lose, at):
    run = tmp_path / "run"
    before(monkeypatch, job.Job, at, lambda: lose(run) if run.exists() else None)
    assert is_told(falconer(*small.arguments(run, "train.save_every=1")), run)
    assert not run.exists() or not (run / "config.yaml").exists()
    if (tmp_path / "elsewhere").exists() and at == "save":
        # It goes on where it is.
        code, _ = falconer_in(falconer, "train", "--run", str(tmp_path / "elsewhere"), "--resume")
        assert code == 0


def falconer_in(falconer, *arguments):
    """As the fixture, for a command that may end well."""
    try:
        return falconer(*arguments)
    except pytest.fail.Exception:
        return 0, ""


def test_an_evaluation(finished, falconer, tmp_path, monkeypatch, lose):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before(monkeypatch, jobs, "evaluate_run", lambda: lose(run))
    assert is_told(falconer("evaluate", "--run", str(run), "evaluate.max_replies=1"), run)


def test_a_merge(finished, falconer, tmp_path, monkeypatch, lose):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before(monkeypatch, certificate_tuned, "tuned_of_run", lambda: lose(run))
    code, err = falconer("merge", "--run", str(run), "--out", str(tmp_path / "out"), "--no-measure")
    assert code == 2 and "Traceback" not in err and str(run) in err.splitlines()[-1]
    assert os.listdir(tmp_path) == (["elsewhere"] if (tmp_path / "elsewhere").exists() else [])


def test_a_sweep(falconer, tmp_path, monkeypatch, lose):
    """What its runs write makes the folder again, without the plan."""
    out = tmp_path / "sweep"
    train_at_once(monkeypatch, lambda config: config.lora.r / 100)
    before(monkeypatch, stage, "bring_to_end", lambda: lose(out))
    assert is_told(falconer("sweep", "lora.r=2,4", "--seeds", "1", "--out", str(out)), out)
