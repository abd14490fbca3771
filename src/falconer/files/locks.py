"""Who works in a run's folder: a lock file that a living process holds, and that a dead one's successor takes over.

The operating system knows who lives: it gives a dead process's `flock` back, across containers and, on NFS, across
machines. Where a file system has no such locks, what the file says of its holder decides: a process of this machine is
looked up, one of another machine counts as living. Not promised: a network drive whose locks each machine keeps for
itself (NFS mounted with `nolock` or `local_lock`) lets a second machine in.
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

RUN_LOCK = ".lock"
# Who asks whether a lock is held holds it for a moment.
_PATIENCE_S = 0.3
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF})
_LARGEST = 4096


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lock, as it wrote itself down.

    Args:
        process: its number.
        host, namespace: where that number means something.
        start: when it started, which tells it from a later process of the same number; "" where nobody can say.
        since: when it took the lock, in ISO 8601.
        command: what was typed.
    """

    process: int
    host: str
    namespace: str
    start: str
    since: str
    command: str

    @property
    def is_here(self) -> bool:
        """Whether its number is one of this machine, and of this container."""
        return (self.host, self.namespace) == (os.uname().nodename, _namespace())

    @property
    def may_live(self) -> bool:
        """Whether it is running, as far as this machine can tell."""
        if not self.is_here:
            return True
        start = process_start(self.process)
        return start is not None and (not start or start == self.start)


@contextmanager
def lock_run(run: Path) -> Iterator[None]:
    """Be the only one who writes into a run's folder, which is made if it is missing and unmade if it stays empty.

    Raises:
        FalconerError: another process works in it, or the folder can't be written to.
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
        yield
    finally:
        if descriptor is not None:
            release(path, descriptor)
        with contextlib.suppress(OSError):  # not empty
            for folder in reversed(made):
                folder.rmdir()


def is_held(run: Path) -> bool:
    """Tell whether a living process holds a run's lock; asking disturbs nobody."""
    try:
        descriptor = os.open(run / RUN_LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # there is a lock, and it is not for us to read
    try:
        granted = _lock(descriptor, fcntl.LOCK_SH)
        return not granted if granted is not None else _may_be_held(descriptor)
    finally:
        os.close(descriptor)


def holder_of(run: Path) -> Holder | None:
    """Return what a run's lock file says of its holder, who may be dead; None if it says nothing."""
    try:
        descriptor = os.open(run / RUN_LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _read(descriptor)
    finally:
        os.close(descriptor)


def try_lock(path: Path) -> int | None:
    """Take the lock at `path`; a dead holder's is taken over.

    Returns:
        The lock file's descriptor, which holds the lock until `release`; None while a living process holds it.
    """
    while True:
        try:
            descriptor, is_new = _open(path)
        except FileNotFoundError:
            if not path.parent.is_dir():
                raise
            continue  # its holder released it between two calls
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
                os.unlink(path)  # a dead one's; the next turn makes our own
        finally:
            if not is_ours:
                os.close(descriptor)


def release(path: Path, descriptor: int) -> None:
    """Give back a lock from `try_lock`, and remove its file."""
    try:
        with contextlib.suppress(OSError):  # its folder was removed, or may not be written to any more
            if _is_at(path, descriptor):
                os.unlink(path)
    finally:
        os.close(descriptor)


def process_start(process: int) -> str | None:
    """Return what tells a running process from any other of its number: "" where that can't be known, None if dead."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass  # somebody else's, and alive
    try:
        # proc(5): behind the name in brackets, the state is field 3 and the start in clock ticks field 22.
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
    other = "or name another folder with --run"
    if holder is None:
        return FalconerError(f"'{run}' is in use by another process.", f"Wait until it ends, {other}.")
    said = (
        f"'{run}' is in use: process {holder.process} on {holder.host} has worked in it since {holder.since} "
        f"({holder.command})."
    )
    if holder.is_here:
        return FalconerError(said, f"Wait until it ends, stop it with kill -INT {holder.process}, {other}.")
    return FalconerError(said, f"Wait until it ends, stop it there, {other}; if it is gone, delete '{run / RUN_LOCK}'.")


def _open(path: Path) -> tuple[int, bool]:
    """Return the descriptor of a lock file, and whether it is new. A link is not followed: its target is precious."""
    always = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | always, 0o666), True
    except FileExistsError:
        pass
    try:
        # NFS locks only what may be written.
        return os.open(path, os.O_RDWR | always), False
    except PermissionError:
        return os.open(path, os.O_RDONLY | always), False


def _lock(descriptor: int, kind: int) -> bool | None:
    """Ask the operating system for a lock and return its answer; None where the file system has no locks."""
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
    """Tell whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sign(path: Path, descriptor: int) -> None:
    """Write into a new lock file who holds it."""
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
    """Return what tells a container's process numbers from those of its neighbours; "" outside Linux."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _written(holder: Holder) -> bytes:
    """Return a line for each field. It is read by people, and nothing nested can come back from a file like this."""
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
