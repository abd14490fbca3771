"""Which rank speaks: the first at once, another only if nobody has ended it meanwhile."""

import pytest

from falconer import launcher
from falconer.errors import FalconerError


@pytest.fixture
def slept(monkeypatch):
    found = []
    monkeypatch.setattr(launcher.time, "sleep", found.append)
    return found


@pytest.mark.parametrize("given", [None, "0"])
def test_the_first_rank_speaks_at_once(monkeypatch, slept, given):
    monkeypatch.delenv("RANK", raising=False)
    if given is not None:
        monkeypatch.setenv("RANK", given)
    assert launcher.rank() == 0 and launcher.speaker("There is no file.") == "There is no file." and not slept


def test_another_rank_leaves_time_to_the_first_and_gives_its_number(monkeypatch, slept):
    monkeypatch.setenv("RANK", "3")
    assert launcher.rank() == 3
    assert launcher.speaker("There is no file.") == "rank 3: There is no file."
    assert slept == [launcher.PATIENCE_S] and launcher.PATIENCE_S > 5, "accelerate looks every 5 seconds"


def test_the_first_rank_of_another_node_speaks_at_once_and_gives_its_number(monkeypatch, slept):
    """Its launcher has a terminal of its own, and nobody else speaks there."""
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert launcher.speaker("There is no file.") == "rank 2: There is no file." and not slept
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert launcher.speaker("There is no file.") == "rank 3: There is no file." and slept == [launcher.PATIENCE_S]


def test_a_launcher_that_shards_the_model_is_refused(monkeypatch):
    assert launcher.count() == 1
    launcher.check_not_sharded()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launcher.count() == 4
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "false")
    launcher.check_not_sharded()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(FalconerError, match=r"configured for FSDP.*4 GiB on each GPU") as raised:
        launcher.check_not_sharded()
    assert "torchrun" in raised.value.hint
