"""The loss curve draws what is in steps.jsonl, whatever a run left there."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from falconer.curves import moving_median, write_loss_curve
from falconer.errors import FalconerError


def training(step: int, loss: float, epoch: float = 0.0) -> dict[str, Any]:
    return {"step": step, "epoch": epoch, "loss": loss, "lr": 1e-3 / step, "grad_norm": 1.0, "target_tokens": 100}


def run(num_steps: int) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = [{"step": 0, "valid_loss": 5.0}]
    for step in range(1, num_steps + 1):
        rows.append(training(step, 3 + 2 * math.exp(-step / 20), 3 * step / num_steps))
        if step % 10 == 0:
            rows.append({"step": step, "valid_loss": 3.2 + 2 * math.exp(-step / 20)})
    return rows


def pixels(path: Path) -> np.ndarray:
    return np.asarray(matplotlib.image.imread(path))


def has_colour(path: Path, colour: str) -> bool:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return bool((np.abs(pixels(path)[..., :3] - rgb) < 0.01).all(axis=-1).any())


def test_draws_training_validation_and_rate(tmp_path: Path) -> None:
    path = tmp_path / "loss_curve.png"
    write_loss_curve(run(120), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert pixels(path).shape == (810, 1350, 4)
    assert all(has_colour(path, colour) for colour in ("#2f6f9f", "#c2410c", "#5b7f5b"))
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_without_validation_nothing_is_marked(tmp_path: Path) -> None:
    write_loss_curve([row for row in run(50) if "loss" in row], tmp_path / "curve.png")
    assert not has_colour(tmp_path / "curve.png", "#c2410c")


def test_equal_runs_give_equal_bytes_and_a_resumed_run_too(tmp_path: Path) -> None:
    rows = run(40)
    write_loss_curve(rows, tmp_path / "one.png")
    repeated = [*rows[:30], training(28, 9.0), training(29, 9.0), *rows[20:]]  # resumed from an earlier checkpoint
    write_loss_curve(repeated, tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


@pytest.mark.parametrize(
    "rows",
    [
        [training(1, 4.0)],
        [training(1, 4.0), training(2, 4.0)],
        [training(1, math.nan)],
        [training(1, 4.0), training(2, math.inf), {"step": 2, "valid_loss": math.nan}],
        [training(step, math.nan if 20 < step < 60 else 3.0) for step in range(1, 100)],
        [training(step, 3.0, step / 2) for step in range(1, 100)],
    ],
)
def test_odd_runs_are_drawn_without_a_warning(tmp_path: Path, rows: list[Mapping[str, Any]]) -> None:
    write_loss_curve(rows, tmp_path / "curve.png")
    assert pixels(tmp_path / "curve.png").std() > 0


def test_no_step_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FalconerError, match="no training step"):
        write_loss_curve([{"step": 0, "valid_loss": 5.0}], tmp_path / "curve.png")
    assert not list(tmp_path.iterdir())


def test_moving_median() -> None:
    values = np.array([1.0, 100.0, 3.0, math.nan, 5.0])
    assert moving_median(values, 1).tolist()[:3] == [1.0, 100.0, 3.0]
    assert moving_median(values, 3).tolist() == [50.5, 3.0, 51.5, 4.0, 5.0]
    assert math.isnan(moving_median(np.array([math.nan]), 3)[0])
