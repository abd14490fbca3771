"""Writing so that nothing is lost: everything is written aside first, brought to the disk, then renamed into place.

Beside `name`, a writer has three names that nobody can guess: `.name.TOKEN.lock`, which tells that it lives,
`.name.TOKEN.partial` for what it writes, and, where the file system can't swap two folders, `.name.TOKEN.old`.
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

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# An old kernel; a file system without it (NFS, some FUSE); a container's seccomp filter.
_CANT_EXCHANGE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM})
# A folder appeared at `path`, or went away, between a look and a rename.
_OVERTAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT})
_TEMPORARY = re.compile(r"\.(?P<stem>.+)\.(?P<token>[0-9a-f]{16})\.(?:lock|partial|old)", re.DOTALL)
# Between two renames of a living writer there are microseconds, on a network drive seconds.
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
    """Yield a temporary path beside `path`; on success it takes `path`'s place, on failure `path` stays as it was.

    Whatever happens to the process or the power, `path` is the old file or the new one. It gets the permissions that
    the user's umask gives, whoever wrote it.

    Raises:
        FalconerError: the disk is full, or the folder can't be written to.
    """
    with explain_disk_errors(path):
        # Now, not after the work: a name that is too long, a folder, or a device, which would become a file.
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
    """As `replace_file`, for a whole folder: at every moment `path` is the old one or the new one, never a mixture.

    Where the file system can't swap two folders in one operation, there are two renames; `recover_folder` undoes the
    first one if the writer dies between them.

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
                # Whatever came between the two renames, Ctrl-C too, the old folder takes its place again.
                if names.old.exists() and not os.path.lexists(path):
                    os.replace(names.old, path)
                # Before the old folder is removed, so that one of them is on the disk.
                sync_folder(path.parent)


def recover_folder(path: Path) -> None:
    """Put a folder back that a killed `replace_folder` had moved away; wait for a living one to finish.

    For readers too. It costs one look where the folder is in its place.

    Raises:
        FalconerError: it can't be put back.
    """
    if os.path.lexists(path):
        return
    before = path.with_name(f".{path.name}.old")  # the name that earlier versions gave it
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
            f"'{path}' was being replaced when its writer was killed, and can't be put back: {error.strerror}.",
            f"Let somebody who may write to '{path.parent}' run the command once.",
        ) from error


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _writing(path: Path) -> Iterator[_Aside]:
    """Remove what dead writers left beside `path`, hold a new writer's lock, and leave none of its names behind."""
    make_folder(path.parent)
    _remove_leftovers(path)
    while True:
        names = _Aside.of(path, _stem(path), secrets.token_hex(8))
        # None: another writer's clearing up was faster than our lock.
        if (descriptor := try_lock(names.lock)) is not None:
            break
    try:
        yield _Aside(names.partial, names.old, names.lock, stat.S_IMODE(os.fstat(descriptor).st_mode))
    finally:
        try:
            _remove(names.partial)
            if os.path.lexists(path):
                _remove(names.old)
        finally:
            release(names.lock, descriptor)


def _swap(names: _Aside, path: Path) -> None:
    """Let the new folder take `path`'s place; again if another writer came between two looks."""
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
    """Swap two paths in one operation; False where C library, kernel or file system can't."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:  # macOS
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _remove_leftovers(path: Path) -> None:
    """Remove what writers in `path`'s folder left that live no more, whatever they wrote."""
    ours = _temporary(path.parent, path)
    for names in _temporary(path.parent):
        # Somebody else's in a shared folder may stay.
        with contextlib.suppress(OSError):
            if (descriptor := try_lock(names.lock)) is None:
                continue
            try:
                # An old folder of another name may be the only one: it waits for its own reader or writer.
                if not names.old.exists() or (names in ours and os.path.lexists(path)):
                    _remove(names.partial)
                    _remove(names.old)
            finally:
                release(names.lock, descriptor)
    _remove_old_names(path)


def _remove_old_names(path: Path) -> None:
    """As `_remove_leftovers`, for the names that earlier versions gave, which say less of their writers."""
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
    """Return the names in a folder; none where it is missing or may not be listed."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _stem(path: Path) -> str:
    """Return what temporary names begin with: the name, shortened so that a name of 255 bytes has room for the rest."""
    if len(os.fsencode(path.name)) <= 100:
        return path.name
    return f"{path.name[:20]}.{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}"


def _kind(path: Path) -> int | None:
    """Return what is at `path`, links followed (`stat.S_IFREG`, `stat.S_IFDIR`, ...); None for nothing."""
    try:
        return stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        return None


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + _LONGEST_SWAP_S
    while not os.path.lexists(path) and time.monotonic() < deadline:
        time.sleep(0.01)


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder with all in it, as far as it may be removed."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
