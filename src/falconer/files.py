"""Writing so that nothing is lost: everything is written aside first, then renamed into place."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from falconer.errors import FalconerError


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes `path`'s place, on failure `path` stays as it was.

    Raises:
        FalconerError: the disk is full, or the folder can't be written to.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield aside
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise _disk_error(error, path) from error


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """As `replace_file`, for a whole folder. An existing folder is moved away only when the new one is complete.

    Raises:
        FalconerError: the disk is full, or the folder can't be written to.
    """
    aside = path.with_name(f".{path.name}.partial")
    try:
        if path.is_file():
            raise FileExistsError(errno.EEXIST, "a file of that name is there")
        recover_folder(path)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            yield aside
            if path.exists():
                os.replace(path, _old(path))
            os.replace(aside, path)
        finally:
            # Whatever came between the two renames, Ctrl-C too, the old folder takes its place again.
            recover_folder(path)
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise _disk_error(error, path) from error


@contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """For files under `path` that are only ever appended to: say in one line that the disk is full.

    Raises:
        FalconerError: the disk is full, or the folder can't be written to.
    """
    try:
        yield
    except OSError as error:
        raise _disk_error(error, path) from error


def recover_folder(path: Path) -> None:
    """Finish what a killed `replace_folder` left: the old folder returns if no new one took its place."""
    old = _old(path)
    if old.exists() and not path.exists():
        os.replace(old, path)
    shutil.rmtree(old, ignore_errors=True)


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _disk_error(error: OSError, path: Path) -> FalconerError | OSError:
    kept = "What was there before is untouched."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = f"{kept} Free some space, then run again with --resume."
        return FalconerError(f"No space left on the disk for '{path}'.", hint)
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
        hint = f"{kept} Choose a folder that you may write to."
        return FalconerError(f"'{path}' can't be written: {error.strerror}.", hint)
    return error
