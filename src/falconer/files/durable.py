"""Syncing files and folders to the disk, so that they survive a power failure.

Linux guarantees this after fsync. On macOS fsync passes the data to the drive, which may still have it in its cache.
"""

import contextlib
import errno
import os
import stat
from pathlib import Path

# Some network and FUSE file systems can't sync a folder, and a folder without read permission can't be opened.
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS, errno.EACCES})


def sync_file(path: Path, mode: int | None = None) -> None:
    """Sync a file to the disk, after setting its permissions to `mode`.

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
    """Sync a folder's entries to the disk, if its file system supports it."""
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
    """Sync a folder with everything in it to the disk, contents before folder entries.

    Args:
        file_mode: the permissions that every file gets; subfolders get those of `path`.
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
    """Create a folder and its parents, synced to the disk.

    Returns:
        The folders that were created, outermost first.
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
    if missing and not missing[-1].is_dir():  # a broken symbolic link
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(missing[-1]))
    return missing


def _set_mode(descriptor: int, mode: int | None) -> None:
    if mode is not None and stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
        os.fchmod(descriptor, mode)


def _raise(error: OSError) -> None:
    raise error
