"""Whether a run can be continued without losing what it has: checked before the model is loaded."""

from pathlib import Path

from falconer.consoles import counted
from falconer.errors import FalconerError
from falconer.files.replace import recover_folder
from falconer.run.folder import ADAPTER, LAST, read_steps
from falconer.run.state import Training, read_training, steps_done
from falconer.train.checkpoint import read_progress

_NEW_RUN = "start a new run with another --run."


def check_resumable(run: Path, save_every: int | None) -> None:
    """Restore folders that a killed process was replacing, and refuse to continue a run that lacks one of them.

    A run that was killed before its first validation and its first checkpoint may begin again: everything in its folder
    follows from its seed.

    Args:
        save_every: as `train.save_every`.

    Raises:
        FalconerError: the checkpoint or the best adapter was removed, or the checkpoint is damaged.
    """
    recover_folder(run / LAST)
    recover_folder(run / ADAPTER)
    written = read_training(run)
    if (run / LAST).is_dir():
        _check_adapter(run, written)
    else:
        _check_nothing_lost(run, written, save_every)


def _check_adapter(run: Path, written: Training | None) -> None:
    best_step = read_progress(run / LAST).best_step
    if not best_step or (run / ADAPTER).is_dir():
        return
    state = "has finished training, but its" if _has_ended(written) else "can't be continued: its"
    raise FalconerError(
        f"'{run}' {state} folder '{ADAPTER}', the best adapter (step {best_step}), was removed.",
        f"Restore the folder from a copy, or use the last checkpoint: falconer evaluate --run {run} --adapter {LAST}.",
    )


def _check_nothing_lost(run: Path, written: Training | None, save_every: int | None) -> None:
    rows = read_steps(run)
    num_steps = max(steps_done(rows), written.step if written else 0)
    if _has_ended(written):
        raise FalconerError(
            f"'{run}' has finished training ({counted(num_steps, 'step')}) and its folder '{LAST}' was removed, so "
            "there is nothing to continue.",
            f"Use the run as it is (falconer evaluate --run {run}), or {_NEW_RUN}",
        )
    # Ctrl-C saves a checkpoint, unless it was pressed twice.
    was_saved = written is not None and written.how == "interrupted" and not written.why
    was_saved |= save_every is not None and num_steps >= save_every
    if was_saved or (run / ADAPTER).is_dir() or any("valid_loss" in row for row in rows):
        raise FalconerError(
            f"'{run}' has no folder '{LAST}', so training would start again from the first step and overwrite the "
            f"adapter and the record of {counted(num_steps, 'step')}.",
            f"Restore the folder from a copy, or {_NEW_RUN}",
        )


def _has_ended(written: Training | None) -> bool:
    return written is not None and written.how in ("finished", "early")
