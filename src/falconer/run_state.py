"""Is a run being trained, and how did its training end?

While a process trains a run it holds the lock on training.lock, which the operating system takes back when the process
ends, however it ends. When training stops, ended.json says how and why. So a run without ended.json whose lock nobody
holds was killed, or its machine went down; it goes on with `falconer train --resume`.
"""

import fcntl
import json
import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Literal

from falconer.errors import FalconerError
from falconer.files import replace_file
from falconer.metrics_file import checked
from falconer.run_folder import ENDED, LOCK, STEPS, StepRow, read_config, read_record, read_steps

How = Literal["finished", "early", "interrupted", "failed"]
Stage = Literal["not started", "running", "finished", "stopped early", "interrupted", "failed", "killed", "unknown"]
_STAGES: tuple[tuple[How, Stage], ...] = (
    ("finished", "finished"), ("early", "stopped early"), ("interrupted", "interrupted"), ("failed", "failed"),
)  # fmt: skip
# Who only looks takes a shared lock for an instant; a training that begins at that instant tries again.
_ATTEMPTS, _PAUSE_S = 20, 0.05
# Of steps.jsonl, where no lock tells: a step of the largest model on one GPU takes seconds.
_FRESH_S = 600


@dataclass(frozen=True, slots=True)
class Ended:
    """How a training stopped.

    Args:
        how: "finished": every step was done; "early": so many validations brought no better loss; "interrupted": by
            Ctrl-C or a signal, with a checkpoint saved; "failed": by an error.
        why: the error; else "".
        step, num_steps: optimiser steps done, and planned.
        best_loss, best_step: the lowest validation loss, None and 0 before any.
        at: when, in UTC.
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
    """Where a run stands, and how that is known."""

    stage: Stage
    known_by: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class _Holder:
    """What a training writes into its lock file."""

    host: str
    pid: int
    is_locked: bool  # False where the file system knows no locks


@contextmanager
def training(run: Path, is_main: bool = True) -> Iterator[None]:
    """Hold the run's lock while the block trains it; an error that leaves the block is written down as its end.

    Args:
        is_main: False on all ranks but the first, which do nothing here.

    Raises:
        FalconerError: another process is training this run.
    """
    if not is_main:
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    with (run / LOCK).open("a+", encoding="utf-8") as file:
        is_locked = _take(file, run)
        file.truncate(0)
        file.write(json.dumps(asdict(_Holder(socket.gethostname(), os.getpid(), is_locked))) + "\n")
        file.flush()
        (run / ENDED).unlink(missing_ok=True)
        try:
            yield
        except KeyboardInterrupt:
            _write_failure(run, "interrupted", "stopped at once by a second signal")
            raise
        except Exception as error:
            _write_failure(run, "failed", f"{type(error).__name__}: {error}")
            raise


def write_ended(
    run: Path, how: How, step: int, num_steps: int, best_loss: float, best_step: int, why: str = ""
) -> None:
    """Write down how a training stopped; see `Ended`."""
    best = best_loss if math.isfinite(best_loss) else None
    ended = Ended(how, why, step, num_steps, best, best_step, datetime.now(UTC).isoformat(timespec="seconds"))
    with replace_file(run / ENDED) as aside:
        aside.write_text(json.dumps(asdict(ended), indent=2) + "\n", encoding="utf-8")


def read_ended(run: Path) -> Ended | None:
    """Return how a run's training stopped; None where that was not written.

    Raises:
        FalconerError: ended.json is damaged.
    """
    path = run / ENDED
    if not path.is_file():
        return None
    return checked(Ended, path.read_text(encoding="utf-8", errors="replace"), path, f"Remove it: rm {path}.")


def check_not_training(run: Path) -> None:
    """Refuse a run that another process is training.

    Raises:
        FalconerError: naming that process.
    """
    holder = _holder(run)
    if holder and _is_held(run):
        raise _busy(run, holder)


def state_of(run: Path) -> State:
    """Tell where a run stands.

    Raises:
        FalconerError: a file of the run is damaged.
    """
    holder, ended = _holder(run), read_ended(run)
    if holder and _is_held(run):
        return State("running", f"process {holder.pid} on {holder.host} holds {LOCK}")
    if ended:
        return State(dict(_STAGES)[ended.how], f"{ENDED}, written {ended.at}", ended.why)
    rows = read_steps(run)
    if holder is None:
        return _by_steps(run, rows)
    if holder.is_locked and holder.host == socket.gethostname():
        return State("killed", f"nobody holds {LOCK}, and {ENDED} was not written")
    age_s = _age_s(run)
    where = f"{LOCK} of {holder.host} tells nothing here; {STEPS} was last written {_ago(age_s)}"
    return State("running" if age_s < _FRESH_S else "killed", where)


def best_loss(rows: list[StepRow]) -> float | None:
    """Return the lowest validation loss, None before any."""
    return min((row["valid_loss"] for row in rows if "valid_loss" in row), default=None)


def steps_done(rows: list[StepRow]) -> int:
    """Return how many optimiser steps were done."""
    return max((row["step"] for row in rows), default=0)


def _by_steps(run: Path, rows: list[StepRow]) -> State:
    """Tell where a run of a version without lock and ended.json stands."""
    if not rows:
        return State("not started", f"there is no {STEPS}")
    known = f"{STEPS}: the run's version wrote no {ENDED}"
    if steps_done(rows) >= read_record(run).get("num_steps", math.inf):
        return State("finished", known)
    losses = [row["valid_loss"] for row in rows if "valid_loss" in row]
    if losses and len(losses) - 1 - losses.index(min(losses)) >= read_config(run).train.patience:
        return State("stopped early", known)
    age_s = _age_s(run)
    known = f"{known}; it was last written {_ago(age_s)}"
    return State("unknown" if age_s < _FRESH_S else "interrupted", known)


def _take(file: IO[str], run: Path) -> bool:
    """Take the lock for as long as the file is open; return False where the file system has none."""
    for _ in range(_ATTEMPTS):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE_S)
        except OSError:
            return False
        else:
            return True
    raise _busy(run, _holder(run))


def _is_held(run: Path) -> bool:
    try:
        with (run / LOCK).open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # the file system has no locks, so nobody holds one
    return False


def _holder(run: Path) -> _Holder | None:
    path = run / LOCK
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    if not text:
        return _Holder("this machine", 0, True)  # it begins just now
    return checked(_Holder, text, path, f"If nobody trains '{run}', remove it: rm {path}.")


def _busy(run: Path, holder: _Holder | None) -> FalconerError:
    who = f"process {holder.pid} on {holder.host}" if holder else "another process"
    return FalconerError(f"'{run}' is being trained by {who}.", "Wait until it ends, or stop it with Ctrl-C.")


def _write_failure(run: Path, how: How, why: str) -> None:
    try:
        rows = read_steps(run)
        losses = [(row["valid_loss"], row["step"]) for row in rows if "valid_loss" in row]
        loss, step = min(losses, default=(math.inf, 0))
        write_ended(run, how, steps_done(rows), int(read_record(run)["num_steps"]), loss, step, why)
    except (FalconerError, OSError, KeyError):
        return  # a full disk, say: what stopped the training is on the screen, and says more


def _age_s(run: Path) -> float:
    return time.time() - (run / STEPS).stat().st_mtime if (run / STEPS).is_file() else math.inf


def _ago(age_s: float) -> str:
    minutes = age_s / 60
    if not math.isfinite(age_s):
        return "never"
    for size, unit in ((60 * 24, "days"), (60, "hours")):
        if minutes >= 2 * size:
            return f"{minutes / size:.0f} {unit} ago"
    return f"{max(0.0, minutes):.0f} minutes ago"
