"""The lock that lets only one process at a time work in a run's folder.

The operating system releases the `flock` of a process that has ended, across containers and, on NFS, across machines.
On file systems without such locks, the content of the lock file decides: a process of this machine is looked up, one
of another machine counts as running. Not covered is a network drive with locks that are local to each machine (NFS
mounted with `nolock` or `local_lock`).
"""

import contextlib
import errno
import fcntl
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path

from falconer.errors import FalconerError
from falconer.files.disk_errors import explain_disk_errors
from falconer.files.durable import make_folder
from falconer.files.lost import noticing_loss

RUN_LOCK = ".lock"
# Checking whether a lock is held takes it for a moment.
_PATIENCE_S = 0.3
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF})
_LARGEST = 4096


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lock, as written in the lock file.

    Args:
        process: its process id.
        host, namespace: the machine and the container in which this id is valid.
        start: its start time, which distinguishes it from a later process with the same id; "" if unknown.
        since: when it took the lock, in ISO 8601.
        command: its command line.
    """

    process: int
    host: str
    namespace: str
    start: str
    since: str
    command: str

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine and this container."""
        return (self.host, self.namespace) == (os.uname().nodename, _namespace())

    @property
    def may_live(self) -> bool:
        """Whether it may still be running, as far as this machine can know."""
        if not self.is_here:
            return True
        start = process_start(self.process)
        return start is not None and (not start or start == self.start)


@contextmanager
def lock_run(run: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, which is created if it is missing, and removed again if it stays empty.

    Raises:
        FalconerError: another process holds the lock, the folder can't be written to, or it was lost meanwhile.
    """
    path = run / RUN_LOCK
    made: list[Path] = []
    descriptor = None
    try:
        with explain_disk_errors(run):
            made = make_folder(run)
            descriptor = _lock_patiently(path)
        if descriptor is None:
            raise _refusal(run)
        with noticing_loss(run, path):
            yield
    finally:
        if descriptor is not None:
            release(path, descriptor)
        with contextlib.suppress(OSError):  # not empty
            for folder in reversed(made):
                folder.rmdir()


def is_held(run: Path) -> bool:
    """Return whether a running process holds a run's lock, without disturbing it."""
    try:
        descriptor = os.open(run / RUN_LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # there is a lock file, but we may not read it
    try:
        granted = _lock(descriptor, fcntl.LOCK_SH)
        return not granted if granted is not None else _may_be_held(descriptor)
    finally:
        os.close(descriptor)


def holder_of(run: Path) -> Holder | None:
    """Return the holder named in a run's lock file, which may have ended; None if there is none."""
    try:
        descriptor = os.open(run / RUN_LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _read(descriptor)
    finally:
        os.close(descriptor)


def try_lock(path: Path) -> int | None:
    """Take the lock at `path`; the lock of a process that has ended is taken over.

    Returns:
        The lock file's descriptor, which holds the lock until `release`; None if a running process holds it.
    """
    while True:
        try:
            descriptor, is_new = _open(path)
        except FileNotFoundError:
            if not path.parent.is_dir():
                raise
            continue  # it was released between the two calls
        is_ours = False
        try:
            granted = _lock(descriptor, fcntl.LOCK_EX)
            if granted is None:
                granted = is_new or not _may_be_held(descriptor)
            if not granted:
                return None
            if _is_at(path, descriptor):
                if is_new:
                    _sign(path, descriptor)
                    is_ours = True
                    return descriptor
                os.unlink(path)  # of a process that has ended; the next iteration creates our own
        finally:
            if not is_ours:
                os.close(descriptor)


def release(path: Path, descriptor: int) -> None:
    """Release a lock from `try_lock`, and remove its file."""
    try:
        with contextlib.suppress(OSError):  # its folder was removed or is no longer writable
            if _is_at(path, descriptor):
                os.unlink(path)
    finally:
        os.close(descriptor)


def process_start(process: int) -> str | None:
    """Return a value that identifies a running process beyond its id: "" if unknown, None if it has ended."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass  # a running process of another user
    try:
        # proc(5): after the name in brackets, the state is field 3 and the start in clock ticks field 22.
        about = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
    return None if about[0] in "ZX" else f"{boot}/{about[19]}"


def _lock_patiently(path: Path) -> int | None:
    deadline = time.monotonic() + _PATIENCE_S
    while (descriptor := try_lock(path)) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return descriptor


def _refusal(run: Path) -> FalconerError:
    holder = holder_of(run)
    other = "or choose another folder with --run"
    if holder is None:
        return FalconerError(f"'{run}' is in use by another process.", f"Wait until it ends, {other}.")
    said = (
        f"'{run}' is in use: process {holder.process} on {holder.host} has held its lock since {holder.since} "
        f"({holder.command})."
    )
    if holder.is_here:
        return FalconerError(said, f"Wait until it ends, stop it with kill -INT {holder.process}, {other}.")
    return FalconerError(
        said, f"Wait until it ends, stop it there, {other}; if it no longer exists, delete '{run / RUN_LOCK}'."
    )


def _open(path: Path) -> tuple[int, bool]:
    """Return the descriptor of a lock file, and whether it is new. Symbolic links are not followed."""
    always = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | always, 0o666), True
    except FileExistsError:
        pass
    try:
        # NFS only locks files that are open for writing.
        return os.open(path, os.O_RDWR | always), False
    except PermissionError:
        return os.open(path, os.O_RDONLY | always), False


def _lock(descriptor: int, kind: int) -> bool | None:
    """Try to take a lock and return whether it was granted; None if the file system has no locks."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sign(path: Path, descriptor: int) -> None:
    """Write the holder into a new lock file."""
    try:
        os.write(descriptor, _written(_myself()))
    except OSError:  # the disk is full
        os.unlink(path)
        raise


def _may_be_held(descriptor: int) -> bool:
    holder = _read(descriptor)
    return holder is None or holder.may_live


def _myself() -> Holder:
    words = [Path(sys.argv[0]).name.replace("__main__.py", "falconer"), *sys.argv[1:]]
    return Holder(
        process=os.getpid(), host=os.uname().nodename, namespace=_namespace(), start=process_start(os.getpid()) or "",
        since=datetime.now().astimezone().isoformat(timespec="seconds"), command=shlex.join(words),
    )  # fmt: skip


def _namespace() -> str:
    """Return the id of the process namespace, which differs between containers; "" outside Linux."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _written(holder: Holder) -> bytes:
    """Return the content of a lock file: a line per field, readable for people and simple to parse."""
    lines = [f"{name} {_printable(str(value))}\n" for name, value in asdict(holder).items()]
    return "".join(lines).encode(errors="replace")[: _LARGEST - 1]


def _read(descriptor: int) -> Holder | None:
    try:
        content = os.pread(descriptor, _LARGEST, 0).decode(errors="replace")
    except OSError:
        return None
    found = dict(line.partition(" ")[::2] for line in content.splitlines())
    if set(found) != {field.name for field in fields(Holder)} or not re.fullmatch("[0-9]{1,10}", found["process"]):
        return None
    process = int(found.pop("process"))
    return Holder(process, **{name: _printable(value) for name, value in found.items()})


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
