"""The state of a run: running, finished, stopped early, interrupted, failed or killed.

training.json says "running" from the first step on and, after training stops, how and why it stopped. The run's lock
(locks.py) shows whether it is still running, since the operating system releases it when the process ends in any way.
So a run that says "running" and is not locked was killed, or its machine went down; falconer train --resume continues
it.
"""

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from falconer.errors import FalconerError
from falconer.files.locks import RUN_LOCK, holder_of, is_held
from falconer.files.replace import replace_file
from falconer.records import StepRow
from falconer.run.folder import RECORD, STEPS, TRAINING, read_config, read_record, read_steps, sealed_record
from falconer.run.manifest import sealed

How = Literal["running", "finished", "early", "interrupted", "failed"]
_STAGES = MappingProxyType({"early": "stopped early", "running": "killed"})
# A step of the largest model on one GPU takes seconds; an older steps.jsonl is not a sign of a running process.
_FRESH_S = 600


@dataclass(frozen=True, slots=True)
class Training:
    """The content of training.json.

    Args:
        how: "running"; "finished": every step was done; "early": `train.patience` validations brought no better loss;
            "interrupted": by Ctrl-C or a signal; "failed": by an error.
        why: the error; else "".
        step, num_steps: optimiser steps done, and planned.
        best_loss, best_step: the lowest validation loss in nats per target token, None and 0 before the first.
        at: when this was written, in UTC.
    """

    how: How
    why: str
    step: int
    num_steps: int
    best_loss: float | None
    best_step: int
    at: str


@dataclass(frozen=True, slots=True)
class State:
    """The state of a run, the evidence for it, and the error that stopped it.

    Args:
        stage: "not started", "imported" (an adapter from elsewhere), "running", "evaluating", "finished",
            "stopped early", "interrupted", "failed", "killed", or "unknown".
    """

    stage: str
    known_by: str
    why: str = ""


@contextmanager
def training(run: Path, is_main: bool = True) -> Iterator[None]:
    """Record that a run is being trained inside this context; an error that leaves it is recorded as its end.

    Args:
        is_main: False on all ranks but the first, which write nothing.
    """
    if not is_main:
        yield
        return
    _write_by_steps(run, "running", "")
    try:
        yield
    except KeyboardInterrupt:
        _write_failure(run, "interrupted", "stopped immediately by a second signal")
        raise
    except Exception as error:
        _write_failure(run, "failed", f"{type(error).__name__}: {error}")
        raise


def write_training(
    run: Path, how: How, step: int, num_steps: int, best_loss: float, best_step: int, why: str = ""
) -> None:
    """Write training.json; see `Training`."""
    best = best_loss if math.isfinite(best_loss) else None
    now = datetime.now(UTC).isoformat(timespec="seconds")
    found = Training(how, why, step, num_steps, best, best_step, now)
    with replace_file(run / TRAINING) as aside:
        aside.write_text(json.dumps(sealed(asdict(found)), indent=2) + "\n", encoding="utf-8")


def read_training(run: Path) -> Training | None:
    """Return the content of training.json; None if there is none.

    Raises:
        FalconerError: training.json is damaged.
    """
    path = run / TRAINING
    return sealed_record(Training, path, f"Remove it: rm -r {path}.")


def state_of(run: Path) -> State:
    """Return the state of a run.

    Raises:
        FalconerError: a file of the run is damaged.
    """
    written = read_training(run)
    if is_held(run):
        holder = holder_of(run)
        who = f"process {holder.process} ({holder.command}) on host {holder.host}" if holder else "a process"
        # The lock is held while a run is trained or evaluated; if training has ended, it is being evaluated.
        is_evaluated = written is not None and written.how != "running"
        is_evaluated |= holder is not None and "evaluate" in holder.command.split()
        return State("evaluating" if is_evaluated else "running", f"in use by {who}")
    if written is None:
        return _by_steps(run)
    if written.how == "running":
        known = f"{TRAINING} says that it is running, but no running process holds {RUN_LOCK}"
        return State("killed", known)
    return State(_STAGES.get(written.how, written.how), f"{TRAINING}, written {written.at}", written.why)


def best_loss(rows: Sequence[StepRow]) -> tuple[float, int]:
    """Return the lowest validation loss and its step; infinity and 0 before the first."""
    losses = [(row["valid_loss"], row["step"]) for row in rows if math.isfinite(row.get("valid_loss", math.inf))]
    return min(losses, default=(math.inf, 0))


def steps_done(rows: Sequence[StepRow]) -> int:
    """Return the number of finished optimiser steps."""
    return max((row["step"] for row in rows), default=0)


def steps_planned(run: Path) -> int | None:
    """Return how many optimiser steps a run was to do; None where run.json does not say.

    Raises:
        FalconerError: run.json is missing or damaged.
    """
    planned = read_record(run).get("num_steps")
    return planned if isinstance(planned, int) else None


def _by_steps(run: Path) -> State:
    """Return the state of a run of a version that did not write training.json."""
    rows = read_steps(run)
    if not rows:
        imported = read_record(run).get("imported") if (run / RECORD).exists() else None
        if isinstance(imported, dict):
            return State("imported", f"an adapter that was trained elsewhere ({imported.get('given')})")
        return State("not started", f"there is no {STEPS}")
    known = f"according to {STEPS}, since the run's version did not write {TRAINING}"
    planned = steps_planned(run)
    if planned is not None and steps_done(rows) >= planned:
        return State("finished", known)
    losses = [row["valid_loss"] for row in rows if "valid_loss" in row]
    if losses and len(losses) - 1 - losses.index(min(losses)) >= read_config(run).train.patience:
        return State("stopped early", known)
    age_s = time.time() - (run / STEPS).stat().st_mtime
    return State("unknown" if age_s < _FRESH_S else "interrupted", f"{known}; last written {_ago(age_s)}")


def _write_failure(run: Path, how: How, why: str) -> None:
    try:
        _write_by_steps(run, how, why)
    except (FalconerError, OSError):
        return  # for instance a full disk; the original error is printed anyway


def _write_by_steps(run: Path, how: How, why: str) -> None:
    rows = read_steps(run)
    write_training(run, how, steps_done(rows), steps_planned(run) or 0, *best_loss(rows), why)


def _ago(age_s: float) -> str:
    minutes = age_s / 60
    for size, unit in ((60 * 24, "days"), (60, "hours")):
        if minutes >= 2 * size:
            return f"{minutes / size:.0f} {unit} ago"
    return f"{max(0.0, minutes):.0f} minutes ago"
