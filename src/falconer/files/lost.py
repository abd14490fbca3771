"""A folder that is removed or renamed while falconer works in it: noticing it, and saying so."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from falconer.errors import FalconerError


def folder_lost(folder: Path) -> FalconerError:
    """Return the error for a folder that is not what it was when the work in it began."""
    return FalconerError(
        f"'{folder}' was removed or renamed while falconer worked in it; what was not written yet is lost.",
        "If it was renamed, go on there (a training: --run NEW_NAME --resume); if it was removed, start again.",
    )


def missing_folder(path: Path) -> Path | None:
    """Return the outermost folder of a path that does not exist; None if only the path itself is missing."""
    return next((folder for folder in reversed(path.absolute().parents) if not os.path.lexists(folder)), None)


@contextmanager
def noticing_loss(folder: Path, mark: Path) -> Iterator[None]:
    """Notice inside this context that a folder is lost.

    A mark that is still there shows that the folder is, whatever a network drive says of folders. If it is missing, it
    may have been removed alone, which loses nothing.

    Args:
        mark: a file in the folder that nobody else removes.

    Raises:
        FalconerError: the folder was lost; in place of whatever error followed from that, if any did.
    """
    # Open, so that its number is not given to another folder that is made in its place.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield
    except Exception as error:
        if not os.path.lexists(mark) and (isinstance(error, FileNotFoundError) or _is_another(folder, descriptor)):
            raise folder_lost(folder) from error
        raise
    else:
        if not os.path.lexists(mark) and _is_another(folder, descriptor):
            raise folder_lost(folder)
    finally:
        os.close(descriptor)


def _is_another(folder: Path, descriptor: int) -> bool:
    """Say whether a folder is missing, or has been made again."""
    try:
        return not os.path.samestat(os.stat(folder), os.fstat(descriptor))
    except (FileNotFoundError, NotADirectoryError):
        return True
