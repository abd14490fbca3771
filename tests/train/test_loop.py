"""How a run ends, and what a signal does to it."""

import signal
from pathlib import Path

import pytest

from falconer.errors import FalconerError
from falconer.train.checkpoint import Progress
from falconer.train.loop import TrainResult, _interruptible
from small_runs import exact, silent


@pytest.mark.parametrize(
    ("ended", "sentence"),
    [
        ("finished", "Done after 120 steps: best validation loss 3.2521 at step 90."),
        ("early", "Stopped early after 120 steps: no better validation loss than 3.2521 at step 90."),
    ],
)
def test_the_last_sentence(ended, sentence):
    progress = Progress(step=120, best_loss=3.25208, best_step=90)
    assert TrainResult(Path("run"), ended, progress, 120).ending == sentence


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_waits_for_the_step_and_the_second_does_not(number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), _interruptible(silent()) as interrupt:
        assert not interrupt.is_set
        signal.raise_signal(number)
        assert interrupt.is_set
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_a_terminal_that_is_gone_saves_and_prints_nothing():
    """Shell and kernel both send SIGHUP, so the second one stops nothing."""
    before, console = signal.getsignal(signal.SIGHUP), silent()
    with _interruptible(console) as interrupt:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert interrupt.is_set and console.quiet
    assert signal.getsignal(signal.SIGHUP) is before


def test_under_nohup_the_run_goes_on():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _interruptible(silent()) as interrupt:
            signal.raise_signal(signal.SIGHUP)
            assert not interrupt.is_set
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_package_that_is_needed_later_is_missed_at_once(small, tmp_path, monkeypatch):
    monkeypatch.setattr("falconer.train.setup.find_spec", lambda name: None if name == "matplotlib" else object())
    with pytest.raises(FalconerError, match="Training needs the package matplotlib") as caught:
        small.run(tmp_path / "run")
    assert caught.value.hint == "Run: pip install matplotlib" and not (tmp_path / "run").exists()


def test_a_disk_without_room_for_a_checkpoint_is_named_before_the_first_step(small, tmp_path, monkeypatch):
    def full(descriptor, start, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("falconer.files.room.os.posix_fallocate", full)
    with pytest.raises(FalconerError, match="No space left.*A checkpoint needs 0 MiB"):
        small.run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_finished_run_that_is_resumed_does_nothing_more(small, finished, tmp_path):
    result = small.run(tmp_path / "run")
    rows = exact(tmp_path / "run")
    again = small.run(tmp_path / "run", resume=True)
    assert again.progress == result.progress and exact(tmp_path / "run") == rows == exact(finished)
