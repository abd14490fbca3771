"""Whether files of some sizes can be written into a folder: checked before the work whose results they are.

Space is reserved for a moment instead of asking how much is free, so quotas, limits on the size of a file, reserved
blocks and permissions count, too.
"""

import contextlib
import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile

from falconer.errors import FalconerError
from falconer.files.disk_errors import explain_disk_errors

_CANT_RESERVE = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


def check_room(folder: Path, sizes: Sequence[int], what: str) -> None:
    """Refuse to start if there is no room for files of these sizes.

    Args:
        folder: an existing folder.
        sizes: in bytes; all of these files exist at the same time.
        what: will be written, for the message.

    Raises:
        FalconerError: there is not enough space, or the folder can't be written to.
    """
    needed = f"{what} needs {sum(sizes) / 2**20:,.0f} MiB in '{folder}'."
    with ExitStack() as stack:
        try:
            # An error names the folder: the file has no name, and disappears with this process.
            with explain_disk_errors(folder), contextlib.suppress(_Unable):
                for size in sizes:
                    _reserve(stack.enter_context(TemporaryFile(dir=folder)).fileno(), size)
        except FalconerError as error:
            raise FalconerError(f"{error.message} {needed}", error.hint) from error


class _Unable(Exception):
    """The file system can't reserve space."""


def _reserve(descriptor: int, size: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, max(size, 1))
    except OSError as error:
        if error.errno in _CANT_RESERVE:
            raise _Unable from error
        raise
