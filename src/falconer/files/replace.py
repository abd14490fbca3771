"""Replacing a file or folder atomically: write a temporary one, sync it to the disk, then rename it.

Next to `name`, a writer uses three temporary names with a random token: `.name.TOKEN.lock`, held while it is running,
`.name.TOKEN.partial` for the new content and, if the file system can't swap two folders, `.name.TOKEN.old`.
"""

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from falconer.errors import FalconerError
from falconer.files.disk_errors import explain_disk_errors
from falconer.files.durable import make_folder, sync_file, sync_folder, sync_tree
from falconer.files.locks import process_start, release, try_lock
from falconer.files.lost import folder_lost

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# An old kernel, a file system without support (NFS, some FUSE), or a container's seccomp filter.
_CANT_EXCHANGE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM})
# A folder appeared or disappeared at `path` between a check and a rename.
_OVERTAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT})
_TEMPORARY = re.compile(r"\.(?P<stem>.+)\.(?P<token>[0-9a-f]{16})\.(?:lock|partial|old)", re.DOTALL)
# Between the two renames of a writer there are microseconds, on a network drive seconds.
_LONGEST_SWAP_S = 10


@dataclass(frozen=True, slots=True)
class _Aside:
    """The temporary names of one writer of `path`, and the permissions that the user's umask gives to a file there."""

    partial: Path
    old: Path
    lock: Path
    file_mode: int = 0

    @classmethod
    def of(cls, path: Path, stem: str, token: str, file_mode: int = 0) -> "_Aside":
        partial, old, lock = (path.with_name(f".{stem}.{token}.{kind}") for kind in ("partial", "old", "lock"))
        return cls(partial, old, lock, file_mode)


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success it replaces `path`, on failure `path` is unchanged.

    Even after a crash or a power failure, `path` is either the old file or the new one. Its permissions follow the
    user's umask, whichever library wrote it.

    Raises:
        FalconerError: the disk is full, or the folder can't be written to.
    """
    with explain_disk_errors(path):
        # Checked before the work: a name that is too long, a folder, or a device, which would be replaced by a file.
        if _kind(path) not in (None, stat.S_IFREG):
            raise FalconerError(f"'{path}' can't be written: it exists and is not a file.", "Choose another name.")
        with _writing(path) as names:
            os.close(os.open(names.partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
            yield names.partial
            sync_file(names.partial, names.file_mode)
            os.replace(names.partial, path)
            sync_folder(path.parent)


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """As `replace_file`, for a whole folder: `path` is always the old folder or the new one, never a mixture.

    If the file system can't swap two folders in one operation, there are two renames; `recover_folder` undoes the first
    one if the writer is killed between them.

    Raises:
        FalconerError: the disk is full, or the folder can't be written to.
    """
    with explain_disk_errors(path):
        if _kind(path) not in (None, stat.S_IFDIR):
            raise FalconerError(f"'{path}' can't be written: it exists and is not a folder.", "Choose another name.")
        recover_folder(path)
        with _writing(path) as names:
            names.partial.mkdir()
            yield names.partial
            sync_tree(names.partial, names.file_mode)
            try:
                _swap(names, path)
            finally:
                # Whatever interrupted the two renames, including Ctrl-C, the old folder is restored.
                if names.old.exists() and not os.path.lexists(path):
                    os.replace(names.old, path)
                # Before the old folder is removed, so that one of the two is always on the disk.
                sync_folder(path.parent)


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Yield an empty folder next to `path` for work in progress, which is removed afterwards.

    If this process is killed, the next one that replaces something there removes it.

    Raises:
        FalconerError: the disk is full, or the folder of `path` can't be written to.
    """
    with explain_disk_errors(path), _writing(path) as names:
        names.partial.mkdir()
        yield names.partial


def recover_folder(path: Path) -> None:
    """Restore a folder that a killed `replace_folder` had moved away, or wait for a running one to finish.

    Readers may call it, too; if the folder exists, it only costs one check.

    Raises:
        FalconerError: the folder can't be restored.
    """
    if os.path.lexists(path):
        return
    before = path.with_name(f".{path.name}.old")  # the name in earlier versions
    found = [names for names in _temporary(path.parent, path) if names.old.is_dir()]
    try:
        for names in sorted(found, key=lambda names: names.old.stat().st_mtime_ns, reverse=True):
            if (descriptor := try_lock(names.lock)) is None:
                _wait_for(path)
                return
            try:
                if not os.path.lexists(path):
                    os.replace(names.old, path)
            finally:
                release(names.lock, descriptor)
        if os.path.isdir(before) and not os.path.lexists(path):
            os.replace(before, path)
        if os.path.lexists(path):
            sync_folder(path.parent)
    except FileNotFoundError:
        _wait_for(path)  # another reader was faster
    except OSError as error:
        raise FalconerError(
            f"'{path}' was being replaced when its writer was killed, and can't be restored: {error.strerror}.",
            f"Run the command once as a user with write permission for '{path.parent}'.",
        ) from error


def remove_leftovers(folder: Path, path: Path | None = None) -> None:
    """Remove the temporary files of killed writers in a folder, whatever they wrote; every writer does this first.

    Args:
        path: what is about to be written there, if anything.
    """
    ours = _temporary(folder, path) if path else []
    for names in _temporary(folder):
        # Those of other users in a shared folder may remain.
        with contextlib.suppress(OSError):
            if (descriptor := try_lock(names.lock)) is None:
                continue
            try:
                # An old folder of another name may be the only copy: it is left for its own reader or writer.
                if not names.old.exists() or (path and names in ours and os.path.lexists(path)):
                    _remove(names.partial)
                    _remove(names.old)
            finally:
                release(names.lock, descriptor)
    if path:
        _remove_old_names(path)


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _writing(path: Path) -> Iterator[_Aside]:
    """Remove the files of killed writers next to `path`, hold a lock as a new writer, and clean up afterwards."""
    make_folder(path.parent)
    remove_leftovers(path.parent, path)
    while True:
        names = _Aside.of(path, _stem(path), secrets.token_hex(8))
        # None: another writer removed our lock file before we held the lock.
        if (descriptor := try_lock(names.lock)) is not None:
            break
    try:
        yield _Aside(names.partial, names.old, names.lock, stat.S_IMODE(os.fstat(descriptor).st_mode))
    except FileNotFoundError as error:
        if not os.path.lexists(path.parent):
            raise folder_lost(path.parent) from error
        raise
    finally:
        try:
            _remove(names.partial)
            if os.path.lexists(path):
                _remove(names.old)
        finally:
            release(names.lock, descriptor)


def _swap(names: _Aside, path: Path) -> None:
    """Replace `path` with the new folder; try again if another writer was faster."""
    for looks_left in reversed(range(100)):
        try:
            if not os.path.lexists(path):
                os.replace(names.partial, path)
            elif not _exchange(names.partial, path):
                _remove(names.old)
                os.replace(path, names.old)
                os.replace(names.partial, path)
            return
        except OSError as error:
            if error.errno not in _OVERTAKEN or not looks_left:
                raise


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one operation; return False if C library, kernel or file system don't support it."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:  # macOS
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _remove_old_names(path: Path) -> None:
    """As `remove_leftovers`, for the temporary names of earlier versions."""
    _remove(path.with_name(f".{path.name}.partial"))
    if os.path.lexists(path):
        _remove(path.with_name(f".{path.name}.old"))
    for name in _names_in(path.parent):
        match = re.fullmatch(rf"\.{re.escape(path.name)}\.([0-9]{{1,10}})\.partial", name)
        if match and process_start(int(match[1])) is None:
            _remove(path.parent / name)


def _temporary(folder: Path, path: Path | None = None) -> list[_Aside]:
    """Return the temporary names of all writers in a folder, or of those of one path."""
    matches = [match for name in _names_in(folder) if (match := _TEMPORARY.fullmatch(name))]
    found = {(match["stem"], match["token"]) for match in matches}
    return [
        _Aside.of(folder / "x", stem, token) for stem, token in sorted(found) if path is None or stem == _stem(path)
    ]


def _names_in(folder: Path) -> list[str]:
    """Return the names in a folder; empty if it is missing or can't be listed."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _stem(path: Path) -> str:
    """Return the beginning of temporary names: the name, shortened so that the result stays below 255 bytes."""
    if len(os.fsencode(path.name)) <= 100:
        return path.name
    return f"{path.name[:20]}.{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}"


def _kind(path: Path) -> int | None:
    """Return the type of `path`, following links (`stat.S_IFREG`, `stat.S_IFDIR`, ...); None if it does not exist."""
    try:
        return stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        return None


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + _LONGEST_SWAP_S
    while not os.path.lexists(path) and time.monotonic() < deadline:
        time.sleep(0.01)


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder with its content, as far as permissions allow."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
