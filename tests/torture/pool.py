"""Worker processes that may die or hang: the case that one was at is known then, and the others go on.

A `ProcessPoolExecutor` ends as a whole when one of its processes dies, and does not say in which case; and it waits for
ever for a process that is dead whose own child still holds its pipe.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

Case = dict[str, Any]
# A command has 120 s, and a case some commands.
HUNG_S = 600.0
_LOOK_S = 1.0


@dataclass
class Job:
    """Cases of a part for a worker, which reports each as soon as it has been run.

    Args:
        numbers: of the cases that have not been reported; the first one is being run.
        since: when that began, on the monotonic clock.
    """

    part: str
    numbers: list[int]
    since: float = 0.0


@dataclass
class Process:
    """A worker's process, and what it has been asked to do.

    Args:
        said: the end of its traceback, if it has ended with one.
    """

    process: Any
    connection: Connection
    said: str = ""
    is_ready: bool = False
    job: Job | None = None


@dataclass
class News:
    """What has happened: a case was run, or failed together with its process; and the seconds that it took.

    Args:
        lost: numbers of cases that the process was to run after it.
        is_death: the process has ended.
    """

    part: str
    case: Case | None
    took_s: float
    lost: list[int] = field(default_factory=list)
    is_death: bool = False


class Pool:
    """Some workers.

    Args:
        folder: for their own folders.
        make: what makes a worker of its folder, in its process.
        hung_s: seconds after which a case is taken to hang.
    """

    def __init__(
        self, num: int, folder: Path, seed: int, failures: Path, *, make: Callable[[Path], Any],
        hung_s: float = HUNG_S,
    ) -> None:  # fmt: skip
        self._arguments = (folder, seed, failures.absolute(), make)
        self._folder, self._num, self._seed, self._hung_s = folder, num, seed, hung_s
        self._deaths_before_ready = 0
        self.processes = [self._start() for _ in range(num)]

    @property
    def idle(self) -> list[Process]:
        """The processes that could begin something."""
        return [one for one in self.processes if one.is_ready and one.job is None]

    @property
    def is_busy(self) -> bool:
        return any(one.job for one in self.processes)

    def count(self, names: Sequence[str]) -> dict[str, int]:
        """Return how many cases each part has; the worker that counts has then made what they need.

        Raises:
            RuntimeError: it can't.
        """
        process = self.processes[0]
        process.connection.send(("count", list(names)))
        while True:
            kind, value = self._receive(process)
            if kind == "count":
                return dict(value)
            if kind != "ready":
                raise RuntimeError(f"the parts can't be prepared: {value}")
            process.is_ready = True

    def give(self, process: Process, part: str, numbers: Sequence[int], ends: float) -> None:
        """Let an idle process run cases until a time."""
        process.job = Job(part, list(numbers), time.monotonic())
        with contextlib.suppress(OSError):  # it has died meanwhile, which is noticed next
            process.connection.send(("cases", part, list(numbers), ends))

    def news(self) -> Iterator[News]:
        """Wait a moment; yield what has happened."""
        readable = wait([one.connection for one in self.processes], _LOOK_S)
        for process in list(self.processes):
            if process.connection in readable:
                yield from self._read(process)
        for process in list(self.processes):
            # Not by the end of its pipe, which its own children may still hold.
            if not process.process.is_alive():
                yield from self._read(process)
                yield from self._buried(process, _how(process))
            elif process.job and time.monotonic() - process.job.since > self._hung_s:
                self._kill(process)
                yield from self._buried(process, f"it hangs: no result after {self._hung_s:.0f} s")

    def close(self) -> None:
        """End all processes, whatever they do, with their children."""
        for process in self.processes:
            self._kill(process)
        self.processes = []

    def _start(self) -> Process:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(there, *self._arguments))
        process.start()
        there.close()
        return Process(process, here)

    def _receive(self, process: Process) -> tuple[str, Any]:
        while not process.connection.poll(_LOOK_S):
            if not process.process.is_alive() and not process.connection.poll():
                return "died", _how(process)
        try:
            return process.connection.recv()  # type: ignore[no-any-return]
        except (EOFError, OSError):
            process.process.join(_LOOK_S)
            return "died", _how(process)

    def _read(self, process: Process) -> Iterator[News]:
        """Yield what a process has reported."""
        while process.connection.poll():
            try:
                kind, value = process.connection.recv()
            except (EOFError, OSError):
                process.process.join(_LOOK_S)
                return
            now = time.monotonic()
            if kind == "ready":
                process.is_ready = True
            elif kind == "error":
                process.said = value
            elif kind == "case" and process.job:
                job = process.job
                yield News(job.part, value, now - job.since)
                del job.numbers[:1]
                job.since = now
            elif kind == "end" and process.job:
                yield News(process.job.part, None, 0.0, process.job.numbers)
                process.job = None

    def _buried(self, process: Process, how: str) -> Iterator[News]:
        """Put another process in the place of a dead one; yield what it was doing."""
        if process not in self.processes:
            return
        self._kill(process)
        print(f"a worker is replaced: {how}", flush=True)
        self._deaths_before_ready += not process.is_ready
        if self._deaths_before_ready > self._num + 2:
            raise RuntimeError(f"workers die before their first case: {how}")
        self.processes[self.processes.index(process)] = self._start()
        if job := process.job:
            took_s = time.monotonic() - job.since
            case: Case | None = None
            if job.numbers:
                case = {"part": job.part, "seed": self._seed, "number": job.numbers[0], "wrong": how, "took_s": took_s}
            yield News(job.part, case, took_s, job.numbers[1:], is_death=True)

    def _kill(self, process: Process) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.process.pid, signal.SIGKILL)  # it leads a group of its own, with its children
        process.process.kill()
        process.process.join()
        process.connection.close()
        shutil.rmtree(self._folder / str(process.process.pid), ignore_errors=True)


def _how(process: Process) -> str:
    code = process.process.exitcode
    if code is not None and code < 0:
        return f"the process died with signal {-code} ({signal.Signals(-code).name})"
    return f"the process ended with exit code {code}: {process.said}"


def _work(connection: Connection, folder: Path, seed: int, failures: Path, make: Callable[[Path], Any]) -> None:
    """Be a worker until the pipe is closed."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    faulthandler.enable()
    try:
        worker = make(folder / str(os.getpid()))
        connection.send(("ready", None))
        while True:
            kind, *about = connection.recv()
            if kind == "count":
                connection.send(("count", {name: worker.number_of(name) for name in about[0]}))
                continue
            part, numbers, ends = about
            for number in numbers:
                if time.time() > ends:
                    break
                connection.send(("case", worker.run(part, number, seed, failures)))
            connection.send(("end", None))
    except (EOFError, BrokenPipeError):
        pass
    except BaseException:
        with contextlib.suppress(OSError):
            connection.send(("error", traceback.format_exc()[-1000:]))
        os._exit(1)  # a thread that hangs would keep the process
