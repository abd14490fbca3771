"""Whether a run can be continued without losing what it has: checked before the model is loaded."""

import os
from pathlib import Path

from falconer.consoles import counted
from falconer.errors import FalconerError
from falconer.files.replace import recover_folder, remove_leftovers, replace_file
from falconer.model.lora import check_adapter_files
from falconer.run.folder import ADAPTER, LAST, STEPS, read_steps
from falconer.run.state import Training, read_training, steps_done
from falconer.train.checkpoint import read_progress

_NEW_RUN = "start a new run with another --run."


def check_resumable(run: Path, save_every: int | None) -> list[str]:
    """Restore what a killed process left, and refuse to continue a run that lacks its checkpoint or its best adapter.

    A run that was killed before its first checkpoint may begin again: everything in its folder follows from its seed.

    Args:
        save_every: as `train.save_every`.

    Returns:
        What the user should know: that steps.jsonl was damaged and has been restored.

    Raises:
        FalconerError: the checkpoint or the best adapter was removed or is damaged.
    """
    recover_folder(run / LAST)
    recover_folder(run / ADAPTER)
    for folder in (run, (run / LAST).parent):
        remove_leftovers(folder)
    written = read_training(run)
    if not os.path.lexists(run / LAST):
        _check_nothing_lost(run, written, save_every)
        return []
    progress = read_progress(run / LAST)
    _check_adapter(run, written, progress.best_step)
    return _restore_steps(run, progress.step)


def _restore_steps(run: Path, done: int) -> list[str]:
    """Restore steps.jsonl from the checkpoint's copy if a row of a step that it has done is missing or damaged."""
    copy, path = run / LAST / STEPS, run / STEPS
    if not copy.is_file():  # a checkpoint of an older version
        return []
    rows = copy.read_bytes()
    try:
        is_whole = path.is_file() and path.read_bytes().startswith(rows)
    except OSError:
        is_whole = False
    if is_whole:
        return []
    if path.is_dir():
        raise FalconerError(f"'{path}' is damaged: it is a folder.", f"Remove it (rm -r {path}) and try again.")
    with replace_file(path) as aside:
        aside.write_bytes(rows)
    return [f"'{path}' had lost or damaged rows; those of {counted(done, 'step')} were restored from the checkpoint."]


def _check_adapter(run: Path, written: Training | None, best_step: int) -> None:
    if not best_step:
        return
    if (run / ADAPTER).is_dir():
        check_adapter_files(run / ADAPTER)
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
    # A step beyond the first checkpoint is only done after that was saved; by default, validations are followed by one.
    first = save_every or min((row["step"] for row in rows if "valid_loss" in row), default=num_steps)
    if was_saved or num_steps > first:
        raise FalconerError(
            f"'{run}' has no folder '{LAST}', so training would start again from the first step and overwrite the "
            f"adapter and the record of {counted(num_steps, 'step')}.",
            f"Restore the folder from a copy, or {_NEW_RUN}",
        )


def _has_ended(written: Training | None) -> bool:
    return written is not None and written.how in ("finished", "early")
