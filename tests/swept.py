"""Sweeps whose trainings take no time and end as a test says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from falconer.config import Config
from falconer.evaluate.measure import Evaluated
from falconer.records import Likelihood, Prediction
from falconer.run.folder import write_config
from falconer.sweep import stage
from falconer.sweep.folder import is_measured, run_folder, write_measured
from falconer.sweep.runs import Done


def train_at_once(
    monkeypatch: pytest.MonkeyPatch, nats: Callable[[Config], float], *, interrupted_at: int | None = None
) -> list[tuple[Any, ...]]:
    """Put trainings that take no time in the place of real ones; a rank of 13 fails.

    Args:
        nats: how much worse a configuration's replies are than common ones.
        interrupted_at: the run of this number, from 1, is interrupted once its folder is made.

    Returns:
        What was trained so far, as (r, epochs, seed); it grows.
    """
    asked: list[tuple[Any, ...]] = []

    def bring_to_end(folder: Path, name: str, config: Config, console: Console) -> Done:
        if is_measured(folder, name):
            return Done(name)
        asked.append((config.lora.r, config.train.epochs, config.train.seed))
        run_folder(folder, name).mkdir(parents=True, exist_ok=True)
        write_config(run_folder(folder, name), config)
        if len(asked) == interrupted_at:
            raise KeyboardInterrupt
        if config.lora.r == 13:
            return Done(name, "no luck")
        likelihoods = [Likelihood(9, 8 + n % 3 + nats(config), 3, 2, 9) for n in range(30)]
        rows = [Prediction(f"d{n}", 1, "a b", "a c", likelihood=one) for n, one in enumerate(likelihoods)]
        ids = [row.dialogue_id for row in rows]
        write_measured(folder, name, Evaluated(rows, likelihoods, ids), "30 validation dialogues", "en")
        return Done(name)

    monkeypatch.setattr(stage, "bring_to_end", bring_to_end)
    return asked
