"""The log of a training: steps.jsonl, TensorBoard events, and the progress bar."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from falconer.files.lost import folder_lost
from falconer.run.folder import STEPS, TENSORBOARD, read_steps, write_steps

# Without a terminal (a log file, a CI job), one line after this many steps, or this long, replaces the progress bar.
LOG_EVERY_STEPS = 25
LOG_EVERY_S = 60.0


class Recorder:
    """Appends each row to steps.jsonl and TensorBoard and moves the progress bar; silent on ranks other than the first.

    Args:
        run: the run's folder.
        num_steps: the bar's length.
        done: steps already done; later rows are removed, so that a resumed run's log equals an uninterrupted one's.
        is_main: whether this is the first rank, which writes.
    """

    def __init__(self, run: Path, num_steps: int, done: int, is_main: bool, console: Console) -> None:
        self._run, self._is_main = run, is_main
        self._console = console
        self._num_steps = num_steps
        self._told = time.monotonic()
        self._bar = Progress(
            TextColumn("[bold]train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"),
            TextColumn("{task.fields[speed]}"), TimeRemainingColumn(),
            console=console, disable=not (is_main and console.is_terminal),
        )  # fmt: skip
        self._task = self._bar.add_task("train", total=num_steps, completed=done, loss="loss -", speed="")
        if is_main:
            from falconer.train.events import Events

            rows = [row for row in read_steps(run) if row["step"] <= done]
            write_steps(run, rows)
            self._file = (run / STEPS).open("a", encoding="utf-8")
            self._events = Events(run / TENSORBOARD, rows)

    def __enter__(self) -> "Recorder":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._is_main:
            self._file.close()
            self._events.close()

    def step(self, row: Mapping[str, float]) -> None:
        """Record one optimiser step."""
        loss, speed = f"loss {row['loss']:.3f}{_ranking(row, '')}", f"{row['tok_per_s']:,.0f} tok/s"
        self._bar.update(self._task, completed=row["step"], loss=loss, speed=speed)
        self._write(row)
        if self._is_main and not self._console.is_terminal and (row["step"] % LOG_EVERY_STEPS == 0 or self._is_silent):
            self._told = time.monotonic()
            left = (self._num_steps - row["step"]) * row["time_s"] / row["step"]
            self._console.print(f"step {row['step']:.0f}/{self._num_steps}  {loss}  {speed}  {left:.0f} s left")

    def validating(self, done: int, total: int) -> None:
        """Say how far a validation is, once a minute."""
        if self._is_main and self._is_silent and done < total:
            self._told = time.monotonic()
            self._bar.console.print(f"validation: {done:,} of {total:,} batches")

    @property
    def _is_silent(self) -> bool:
        """Whether nothing has been said for long."""
        return time.monotonic() - self._told >= LOG_EVERY_S

    def validation(self, row: Mapping[str, float], is_best: bool) -> None:
        """Record one validation."""
        self._write(row)
        if self._is_main:
            self._told = time.monotonic()
            mark = "  best so far" if is_best else ""
            loss = f"{row['valid_loss']:.4f}{_ranking(row, 'valid_')}"
            self._bar.console.print(f"step {row['step']:.0f}  validation loss {loss}{mark}")

    def _write(self, row: Mapping[str, float]) -> None:
        if not self._is_main:
            return
        # Its file can be written although nobody can read it any more, and a checkpoint would make the folder again.
        if not os.path.lexists(self._run / STEPS):
            raise folder_lost(self._run)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self._events.add(row)


def _ranking(row: Mapping[str, float], prefix: str) -> str:
    """Return the ranking's figures of a row in words; "" if it has none."""
    if f"{prefix}ranking_loss" not in row:
        return ""
    return f"  ranking {row[f'{prefix}ranking_loss']:.3f} ({100 * row[f'{prefix}ranking_accuracy']:.0f} % right)"
