"""What the operating system's refusal to write means, in one line, and what its user can do about it."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from falconer.errors import FalconerError

_FULL = ("No space left on the disk for '{path}'", "Free some space, then run again (a training with --resume).")
_QUOTA = ("No space left on the disk for '{path}': your quota is used up", _FULL[1])
_TOO_LARGE = (
    "'{path}' grows larger than a file may be here",
    "Lift this shell's limit with: ulimit -f unlimited; or write to a file system that takes larger files.",
)
_NAME = ("'{path}' can't be written: {reason}", "Choose another name, shorter and of ordinary characters.")
_REFUSED = ("'{path}' can't be written: {reason}", "Choose a folder that you may write to.")
_IN_USE = ("'{path}' can't be replaced: {reason}", "Choose a folder that is no mount point and that nothing else uses.")
_LAYER = (
    "'{path}' can't be replaced: {reason}",
    "It belongs to a container's image or to another disk: copy its run to a folder of its own, then go on there.",
)
_UNABLE = ("'{path}' can't be written: {reason}", "Choose a folder on another file system.")
_FAILED = (
    "The disk failed while '{path}' was being written: {reason}",
    "Check the disk or the network drive, then run again (a training with --resume).",
)
_OPEN_FILES = ("'{path}' can't be written: {reason}", "Raise the limit on open files with: ulimit -n 4096.")
_MEMORY = ("'{path}' can't be written: {reason}", "Free some memory, or raise this shell's limit (ulimit -v).")

# ENOENT is missing on purpose: what is not there is seldom the fault of the file that is being written.
_MEANINGS = MappingProxyType(
    {
        errno.ENOSPC: _FULL,
        errno.EDQUOT: _QUOTA,
        **dict.fromkeys((errno.EFBIG, errno.EOVERFLOW), _TOO_LARGE),
        # EINVAL and EILSEQ: FAT refuses "a:b", ZFS and macOS bytes that are no UTF-8.
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
        # A broken disk or file system, and a network drive whose server is away.
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
    """Say in one line why `path`, or a file under it, can't be written.

    Raises:
        FalconerError: in place of an OSError whose number says so; other exceptions stay what they are.
    """
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error


def disk_error(error: OSError, path: Path) -> FalconerError | OSError:
    """Return what a failure to write `path` means; the error itself where it means something else."""
    if error.errno is None or error.errno not in _MEANINGS:
        return error
    message, hint = _MEANINGS[error.errno]
    # Not `error.strerror`: safetensors puts a sentence of its own there.
    said = message.format(path=path, reason=os.strerror(error.errno))
    return FalconerError(f"{said}.", f"What was there before is untouched. {hint}")
