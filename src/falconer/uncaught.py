"""What no command explains itself, told in one line: a full disk, too little memory, a closed output, a signal."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from falconer.errors import FalconerError
from falconer.files.disk_errors import disk_error
from falconer.files.lost import folder_lost, missing_folder

# What libraries say of a memory limit, in a RuntimeError or OSError.
_NO_MEMORY = ("can't allocate memory", "Cannot allocate memory", "out of memory", "failed to map segment")
_OF_OUTPUT = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF})
_OF_OPENING = frozenset({errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP})
_MORE_MEMORY = (
    "Free some memory, raise this shell's limit (ulimit -v), or use less: smaller data, train.micro_tokens or "
    "evaluate.batch_size; falconer plan shows what a training takes."
)


class Ended(SystemExit):
    """A signal ends the command; what is open is closed on the way out. The exit code is the shell's: 128 + number.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number

    @property
    def said(self) -> str:
        """What the user is told; "" if the terminal is gone."""
        if self.number == signal.SIGINT:
            return "interrupted."
        return "terminated (SIGTERM)." if self.number == signal.SIGTERM else ""


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP raise `Ended` inside this context; train, chat and serve have their own ways.

    Otherwise SIGTERM and SIGHUP would leave temporary files behind.
    """

    def end(number: int, frame: object) -> NoReturn:
        raise Ended(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores SIGHUP
                before[number] = signal.signal(number, end)
    try:
        yield
    except KeyboardInterrupt:
        raise Ended(signal.SIGINT) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def open_missing_streams() -> None:
    """Give a process that was started without stdin, stdout or stderr empty ones.

    Otherwise the first file that it opens would become its stdout, and be written into.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  open until the process ends


def flush() -> None:
    """Write what is left for stdout, so that a full disk is noticed while it can still be told.

    Raises:
        OSError: it can't be written; nothing of it is left then.
    """
    try:
        sys.stdout.flush()
    except OSError:
        _give_up_stdout()
        raise


def explained(error: Exception) -> FalconerError | None:
    """Return what a user can do about an error; None for a bug, whose traceback is needed."""
    if isinstance(error, FalconerError):
        return error
    if isinstance(error, ModuleNotFoundError):
        if (error.name or "").startswith("falconer"):
            return None
        return FalconerError(f"The package '{error.name}' is not installed.", "Run: pip install -r requirements.txt.")
    said = str(error)
    if isinstance(error, MemoryError) or any(words in said for words in _NO_MEMORY):
        return FalconerError("There is not enough memory for this.", _MORE_MEMORY)
    if not isinstance(error, OSError):
        return None
    if error.errno == errno.EPIPE or (error.filename is None and error.errno == errno.EIO):
        _give_up_stdout()
        return FalconerError("The output was closed before all of it was written.")
    if not isinstance(error.filename, (str, bytes)):
        about = f"The output can't be written: {os.strerror(error.errno)}." if error.errno in _OF_OUTPUT else ""
        return FalconerError(about, "Free some space, or write it elsewhere.") if about else None
    path = os.fsdecode(error.filename)
    if isinstance(error, FileNotFoundError) and (folder := missing_folder(Path(path))):
        return folder_lost(folder)
    if error.errno in _OF_OPENING:
        reason = os.strerror(error.errno)
        return FalconerError(f"'{path}' can't be opened: {reason}.", "Check the name, and your permission for it.")
    known = disk_error(error, Path(path))
    return known if isinstance(known, FalconerError) else None


def _give_up_stdout() -> None:
    """Let what is still buffered for stdout go nowhere, since Python would fail again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
