"""Replacing several files of a folder together: whatever stops the writer, a reader finds all new files or none.

The new files are written into a folder of their own, which takes its place by one rename. That is the moment from which
they count. They are then moved to where they belong; if the writer is killed meanwhile, the next reader goes on.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from falconer.errors import FalconerError
from falconer.files.disk_errors import explain_disk_errors
from falconer.files.durable import sync_folder
from falconer.files.replace import replace_folder

# In the new folder: the names of files that are removed, one per line.
_REMOVED = ".removed"


@contextmanager
def replace_together(folder: Path, name: str, removed: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a new folder; on success its files replace those of the same names in `folder`, on failure none do.

    Args:
        name: of the set of files; `name`.new is the new folder.
        removed: names of files in `folder` that do not belong to the new set.

    Raises:
        FalconerError: no space, or the folder can't be written to.
    """
    finish_together(folder, name)
    with replace_folder(_new(folder, name)) as aside:
        yield aside
        (aside / _REMOVED).write_text("".join(f"{one}\n" for one in removed), encoding="utf-8")
    finish_together(folder, name)


def finish_together(folder: Path, name: str) -> None:
    """Move the files of a set to where they belong, if their writer was killed before it had done so.

    Every reader of the set calls this first; without a new folder, it only costs one check.

    Raises:
        FalconerError: the folder can't be written to.
    """
    new = _new(folder, name)
    if not os.path.isdir(new):
        return
    try:
        # Several processes may do this at the same time: all of them move the same files.
        with contextlib.suppress(FileNotFoundError), explain_disk_errors(folder):
            _move(new, folder)
    except FalconerError as error:
        raise FalconerError(
            f"'{folder}' has new files in '{new.name}', whose writer was killed, and they can't be moved to their "
            f"places. {error.message}",
            f"Run the command once as a user with write permission for '{folder}'.",
        ) from error


def _move(new: Path, folder: Path) -> None:
    names = sorted(os.listdir(new))
    removed = (new / _REMOVED).read_text(encoding="utf-8").splitlines() if _REMOVED in names else []
    for name in removed:
        (folder / name).unlink(missing_ok=True)
    for name in names:
        if name != _REMOVED:
            with contextlib.suppress(FileNotFoundError):
                os.replace(new / name, folder / name)
    # Before the folder that would repeat it is removed.
    sync_folder(folder)
    (new / _REMOVED).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # another set has taken its place
        new.rmdir()
    sync_folder(folder)


def _new(folder: Path, name: str) -> Path:
    return folder / f"{name}.new"
