"""TensorBoard's own reader sees each step once, in order, whatever the clock says."""

import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from falconer.records import StepRow
from falconer.train.events import Events


def rows(steps: range) -> list[StepRow]:
    found: list[StepRow] = []
    for step in steps:
        found.append({"step": step, "loss": 9.0 - step, "time_s": 0.5 * step})
        if step % 2 == 0:
            found.append({"step": step, "valid_loss": 1.0 / step})
    return found


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


@pytest.mark.parametrize("shift", [0, -86_400, 86_400])
def test_a_resumed_runs_events_equal_an_uninterrupted_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: int
) -> None:
    events = Events(tmp_path, [])
    for row in rows(range(1, 8)):
        events.add(row)
    events.close()
    # Killed after step 7, resumed from step 4 by a machine with another clock.
    now = time.time()
    monkeypatch.setattr("falconer.train.events.time.time", lambda: now + shift)
    events = Events(tmp_path, rows(range(1, 5)))
    for row in rows(range(5, 11)):
        events.add(row)
    events.close()
    (file,) = tmp_path.iterdir()
    assert "tfevents" in file.name
    found = read(tmp_path)
    assert [(one.step, one.value) for one in found.Scalars("train/loss")] == [(n, 9.0 - n) for n in range(1, 11)]
    assert [one.step for one in found.Scalars("valid/valid_loss")] == [2, 4, 6, 8, 10]
    times = [one.wall_time for one in found.Scalars("train/loss")]
    assert times == sorted(times) and times[3] - times[0] == pytest.approx(1.5, abs=1e-3)


def test_each_row_is_in_the_file_at_once(tmp_path: Path) -> None:
    events = Events(tmp_path, [])
    events.add({"step": 1, "loss": 2.0})
    assert [one.step for one in read(tmp_path).Scalars("train/loss")] == [1]
    events.close()


def test_files_of_other_programs_stay(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    Events(tmp_path, []).close()
    Events(tmp_path, []).close()
    assert len(list(tmp_path.iterdir())) == 2 and (tmp_path / "notes.txt").exists()
