"""Turning operating system errors on writing into messages that say what the user can do."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from falconer.errors import FalconerError

_FULL = ("No space left on the disk for '{path}'", "Free some space, then run again (a training with --resume).")
_QUOTA = ("No space left on the disk for '{path}': your quota is used up", _FULL[1])
_TOO_LARGE = (
    "'{path}' exceeds the maximum file size",
    "Remove the shell's limit with: ulimit -f unlimited; or use a file system that supports larger files.",
)
_NAME = ("'{path}' can't be written: {reason}", "Choose a shorter name without special characters.")
_REFUSED = ("'{path}' can't be written: {reason}", "Choose a folder that you have permission to write to.")
_IN_USE = (
    "'{path}' can't be replaced: {reason}",
    "Choose a folder that is not a mount point and not used by anything else.",
)
_LAYER = (
    "'{path}' can't be replaced: {reason}",
    "It is part of a container image or on another disk: copy the run to a new folder, and continue there.",
)
_UNABLE = ("'{path}' can't be written: {reason}", "Choose a folder on another file system.")
_FAILED = (
    "The disk failed while '{path}' was being written: {reason}",
    "Check the disk or the network drive, then run again (a training with --resume).",
)
_OPEN_FILES = ("'{path}' can't be written: {reason}", "Raise the limit on open files with: ulimit -n 4096.")
_MEMORY = ("'{path}' can't be written: {reason}", "Free some memory, or raise this shell's limit (ulimit -v).")

# ENOENT is missing on purpose: a missing file is rarely a problem of the file that is being written.
_MEANINGS = MappingProxyType(
    {
        errno.ENOSPC: _FULL,
        errno.EDQUOT: _QUOTA,
        **dict.fromkeys((errno.EFBIG, errno.EOVERFLOW), _TOO_LARGE),
        # EINVAL and EILSEQ: FAT rejects "a:b", ZFS and macOS reject names that are not UTF-8.
        **dict.fromkeys((errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ), _NAME),
        **dict.fromkeys(
            (
                errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY,
                errno.ELOOP, errno.EMLINK,
            ),
            _REFUSED,
        ),
        **dict.fromkeys((errno.EBUSY, errno.ETXTBSY), _IN_USE),
        # overlayfs: a folder of a lower layer can't be renamed.
        errno.EXDEV: _LAYER,
        **dict.fromkeys((errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK), _UNABLE),
        # A broken disk or file system, or a network drive whose server can't be reached.
        **dict.fromkeys(
            (
                errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN,
                *(getattr(errno, name) for name in ("EUCLEAN", "EREMOTEIO", "EBADMSG") if hasattr(errno, name)),
            ),
            _FAILED,
        ),
        **dict.fromkeys((errno.EMFILE, errno.ENFILE), _OPEN_FILES),
        errno.ENOMEM: _MEMORY,
    }
)  # fmt: skip


@contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Turn errors on writing `path`, or a file in it, into a one-line message.

    Raises:
        FalconerError: instead of an OSError with one of the known numbers; other exceptions are not changed.
    """
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error


def disk_error(error: OSError, path: Path) -> FalconerError | OSError:
    """Return the FalconerError for a failure to write `path`; the error itself if its number is not known."""
    if error.errno is None or error.errno not in _MEANINGS:
        return error
    message, hint = _MEANINGS[error.errno]
    # Not `error.strerror`, where safetensors puts its own message.
    said = message.format(path=path, reason=os.strerror(error.errno))
    return FalconerError(f"{said}.", f"The previous version is unchanged. {hint}")


@contextmanager
def rust_disk_errors() -> Iterator[None]:
    """Raise the operating system's error behind a Rust library's "No space left on device (os error 28)".

    safetensors raises its own exception for it, tokenizers a bare one.
    """
    try:
        yield
    except Exception as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), str(error)) from error
