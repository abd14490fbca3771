"""--adapter: which names are of a run's own folders, and which are of adapters from elsewhere."""

import pytest

from command_line import falconer
from falconer.config import load
from falconer.run.folder import is_inside, write_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("options") / "run"
    (folder / "tensorboard").mkdir(parents=True)
    write_config(folder, load())
    return folder


def test_a_runs_own_folders_come_first(run, tmp_path):
    assert is_inside(tmp_path, "adapter") and is_inside(tmp_path, "checkpoints/last")
    assert not is_inside(tmp_path, "alice/persona") and not is_inside(run, str(tmp_path))
    assert not is_inside(run / "tensorboard", "../adapter")
    assert is_inside(run, "tensorboard")


def test_a_run_that_is_given_is_meant(run):
    result = falconer("chat", "--run", run, "--adapter", "alice/persona")
    assert result.code == 2 and f"'{run}' has no folder 'alice/persona'. Use adapter (the best)" in result.err


def test_without_a_run_the_checkpoint_is_still_a_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = falconer("chat", "--adapter", "checkpoints/last")
    assert result.code == 2 and "contains no run" in result.err
