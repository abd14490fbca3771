"""A trained and evaluated run of seconds, and a hub on loopback, for tests of sharing."""

import shutil

import pytest

from fake_hub import BASE, REPOSITORY, connect, fake_hub
from falconer import jobs
from falconer.run.folder import read_config
from falconer.share.origin import find_origin
from falconer.share.plan import plan_share
from small_runs import Small, silent, write_dialogues


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    small = Small(tmp_path_factory.mktemp("shared"))
    write_dialogues(small.valid, 24, seed=6)
    return small


@pytest.fixture(scope="session")
def run(small, tmp_path_factory):
    """Whose model has learned something, so that its replies are not the base's."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "run"
    limits = ["evaluate.max_new_tokens=6", "evaluate.max_replies=30", "evaluate.num_samples=2"]
    small.run(
        folder,
        *limits,
        "train.max_steps=60",
        "train.learning_rate=2e-2",
        "train.validate_every=30",
        "lora.targets=all-linear",
        "lora.r=16",
    )
    jobs.evaluate_run(jobs.open_run(folder), read_config(folder), silent())
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def hub():
    with fake_hub() as hub:
        yield hub


@pytest.fixture
def online(hub, monkeypatch, tmp_path):
    """The hub, which this process uses."""
    connect(hub, monkeypatch, tmp_path / "cache")
    return hub


@pytest.fixture
def copied(run, tmp_path):
    """The run at another place, where tests may write."""
    return shutil.copytree(run, tmp_path / "elsewhere")


@pytest.fixture
def planned(copied):
    """What would be shared of it."""
    origin = find_origin(read_config(copied), base_model=BASE, license="mit", base_license="apache-2.0")
    return plan_share(copied, REPOSITORY, origin)
