"""How a run ends, and what a signal does to it."""

import signal
from pathlib import Path

import pytest

from falconer.train.checkpoint import Progress
from falconer.train.loop import TrainResult, _interruptible
from small_runs import exact


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
    with pytest.raises(KeyboardInterrupt), _interruptible() as interrupt:
        assert not interrupt.is_set
        signal.raise_signal(number)
        assert interrupt.is_set
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_a_finished_run_that_is_resumed_does_nothing_more(small, finished, tmp_path):
    result = small.run(tmp_path / "run")
    rows = exact(tmp_path / "run")
    again = small.run(tmp_path / "run", resume=True)
    assert again.progress == result.progress and exact(tmp_path / "run") == rows == exact(finished)
