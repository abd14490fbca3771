"""What has been written is on the disk: it is there after the power fails, not only after the process dies.

Linux promises it after fsync. On macOS fsync hands the data to the drive, which may still hold it in its own cache.
"""

import contextlib
import errno
import os
import stat
from pathlib import Path

# Some network and FUSE file systems refuse to sync a folder, and one that may not be listed can't be opened.
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS, errno.EACCES})


def sync_file(path: Path, mode: int | None = None) -> None:
    """Bring a file's bytes to the disk; give it the permissions `mode` first, if it has others.

    Raises:
        OSError: among others for a symbolic link, which is never followed.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _set_mode(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Bring a folder's list of names to the disk, where its file system can."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def sync_tree(path: Path, file_mode: int) -> None:
    """Bring a folder and all in it to the disk, contents before the names that lead to them.

    Args:
        file_mode: the permissions that every file gets; folders inside get those of `path`.
    """
    folder_mode = stat.S_IMODE(path.stat().st_mode)
    for folder, _, names in os.walk(path, topdown=False, onerror=_raise):
        for file in (Path(folder, name) for name in names):
            if not file.is_symlink():
                sync_file(file, file_mode)
        if stat.S_IMODE(os.stat(folder).st_mode) != folder_mode:
            os.chmod(folder, folder_mode)
        sync_folder(Path(folder))


def make_folder(path: Path) -> list[Path]:
    """Make a folder and its parents, so that they outlive a power failure too.

    Returns:
        The folders that were not there before, outermost first.
    """
    missing: list[Path] = []
    while not path.exists():
        missing.insert(0, path)
        path = path.parent
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    for folder in missing:
        with contextlib.suppress(FileExistsError):  # another process was faster
            folder.mkdir()
        sync_folder(folder.parent)
    if missing and not missing[-1].is_dir():  # a link that leads nowhere
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(missing[-1]))
    return missing


def _set_mode(descriptor: int, mode: int | None) -> None:
    if mode is not None and stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
        os.fchmod(descriptor, mode)


def _raise(error: OSError) -> None:
    raise error
