"""`falconer runs`: the list of runs in a folder, with their progress, results and state."""

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from falconer.errors import FalconerError
from falconer.run.folder import METRICS, TRAINING, is_run, read_config, read_metrics, read_steps
from falconer.run.state import best_loss, state_of, steps_done, steps_planned

# Runs are searched in a folder and in its subfolders, no deeper.
_DEPTH = 2
_NONE = "–"


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run in the list.

    Args:
        model, data: the names of the base model and of the training data.
        objective: what was trained, as `train.objective`.
        step, num_steps: optimiser steps done, and planned (None if run.json does not say).
        best_loss: lowest validation loss in nats per target token, None before the first validation.
        bleu, f1: of the tuned model, None if it has not been evaluated.
        state: see `state.State`; `known_by` is the evidence for it, `why` the error that stopped the training.
        is_evaluated: whether there is a metrics.json.
        damage: what could not be read; the other fields are then defaults.
    """

    path: str
    model: str = ""
    data: str = ""
    step: int = 0
    num_steps: int | None = None
    best_loss: float | None = None
    bleu: float | None = None
    f1: float | None = None
    state: str = "damaged"
    known_by: str = ""
    why: str = ""
    is_evaluated: bool = False
    damage: str = ""
    objective: str = "lm"

    @property
    def label(self) -> str:
        return f"{self.state}, evaluated" if self.is_evaluated else self.state


@dataclass(frozen=True, slots=True)
class Found:
    """The runs of a folder, and the names of its subfolders without runs."""

    folder: str
    runs: tuple[RunLine, ...]
    others: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the object that `falconer runs --json` prints."""
        return asdict(self)


def find_runs(folder: Path) -> Found:
    """Find the runs in a folder: the folder itself, its subfolders, and their subfolders.

    Raises:
        FalconerError: there is no such folder.
    """
    if not os.path.isdir(folder):
        raise FalconerError(
            f"There is no folder '{folder}'.",
            "Give the folder of your runs, or create a first run: falconer quickstart.",
        )
    if not _is_open(folder):
        raise FalconerError(f"'{folder}' can't be read: Permission denied.", "Give a folder that you may read.")
    if is_run(folder):
        return Found(str(folder), (read_run(folder),), ())
    lines: list[RunLine] = []
    others: list[str] = []
    for path in _subfolders(folder):
        found = [read_run(run) for run in _runs_in(path, _DEPTH)]
        lines += found
        others += [] if found else [path.name if _is_open(path) else f"{path.name} (can't be read)"]
    return Found(str(folder), tuple(lines), tuple(others))


def read_run(run: Path) -> RunLine:
    """Return the line of one run; a damaged file is reported in it and does not stop the list."""
    try:
        config, rows = read_config(run), read_steps(run)
        state = state_of(run)
        metrics = read_metrics(run) if (run / METRICS).exists() else None
        return RunLine(
            path=str(run),
            model=config.model.name,
            data=config.data.train,
            step=steps_done(rows),
            num_steps=steps_planned(run),
            best_loss=loss if math.isfinite(loss := best_loss(rows)[0]) else None,
            bleu=metrics.tuned.bleu if metrics else None,
            f1=metrics.tuned.f1 if metrics else None,
            state=state.stage,
            known_by=state.known_by,
            why=state.why,
            is_evaluated=metrics is not None,
            objective="preference" if config.prefer.pairs else config.train.objective,
        )
    except (FalconerError, OSError) as error:
        return RunLine(str(run), damage=error.message if isinstance(error, FalconerError) else str(error))


def show_runs(found: Found, console: Console) -> None:
    """Print a table or, if the terminal is too narrow, a few lines per run; then remarks on their states."""
    if not found.runs:
        console.print(f"'{found.folder}' contains no run. Create a first one: falconer quickstart", soft_wrap=True)
    else:
        width = console.measure(_table(found), options=console.options.update(width=10_000)).maximum
        if width <= console.width or not console.is_terminal:
            # In a pipe each run is on one line, however long.
            console.width = max(console.width, width)
            console.print(_table(found))
        else:
            for line in found.runs:
                console.print(Text("\n  ".join((line.path, *_in_words(line)))))
    for line in found.runs:
        if said := _remark(line):
            console.print(Text(f"{line.path}: {said}"), soft_wrap=True)
    if found.others:
        console.print(Text(f"Folders without a run: {', '.join(found.others)}"), soft_wrap=True)


def _remark(line: RunLine) -> str:
    """Return a remark on a run's state: the damage, the error or, without a training.json, the evidence for it."""
    if line.damage or line.why:
        return line.damage or f"{line.state}: {line.why}"
    return "" if line.known_by.startswith(f"{TRAINING}, written") else f"{line.state}: {line.known_by}"


def _table(found: Found) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title, justify in (
        ("run", "left"), ("model", "left"), ("data", "left"), ("steps", "right"), ("best loss", "right"),
        ("BLEU", "right"), ("F1", "right"), ("state", "left"),
    ):  # fmt: skip
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for line in found.runs:
        cells = (line.path, *_short(line), *_figures(line), line.label)
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _in_words(line: RunLine) -> list[str]:
    if line.damage:
        return [line.label]
    model, data = _short(line)
    steps, loss, bleu, f1 = _figures(line)
    return [line.label, f"{model} on {data}", f"steps {steps}, best loss {loss}", f"BLEU {bleu}, F1 {f1}"]


def _short(line: RunLine) -> tuple[str, str]:
    """Return the names of model and data without their folders, and the objective with the model if it is not lm."""
    model, data = (Path(name).name or _NONE for name in (line.model, line.data))
    return model if line.objective == "lm" else f"{model}, {line.objective}", data


def _figures(line: RunLine) -> tuple[str, str, str, str]:
    steps = f"{line.step}/{'?' if line.num_steps is None else line.num_steps}"
    if line.damage or line.state == "imported":
        steps = _NONE
    loss = _NONE if line.best_loss is None else f"{line.best_loss:.4f}"
    bleu, f1 = (_NONE if value is None else f"{value:.2f}" for value in (line.bleu, line.f1))
    return steps, loss, bleu, f1


def _subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, none of one that may not be read."""
    if not _is_open(folder):
        return []
    return sorted(path for path in folder.iterdir() if os.path.isdir(path) and not path.name.startswith("."))


def _is_open(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK)


def _runs_in(path: Path, depth: int) -> Iterator[Path]:
    """Yield the folder if it is a run, else the runs in it; symbolic links are not searched."""
    if is_run(path):
        yield path
    elif depth > 1 and not path.is_symlink():
        for inner in _subfolders(path):
            yield from _runs_in(inner, depth - 1)
