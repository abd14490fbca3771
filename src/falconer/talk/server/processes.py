"""A server whose requests are read and answered by processes of their own, so that the engine's has the model alone.

Python runs one thread at a time: with hundreds of streams, reading requests and writing answers takes as long as the
model's steps, and in one process either waits for the other.
"""

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

from falconer.errors import FalconerError
from falconer.talk.server.limits import Limits
from falconer.talk.server.relay import Relay
from falconer.talk.server.remote_worker import RemoteWorker
from falconer.talk.server.serving import FLUSH_S, SWITCH_S, Server
from falconer.talk.server.worker import AnyWorker, Worker

# Seconds until a process has loaded its libraries, and until it has ended after its last answer.
_START_S, _END_S = 120.0, 3.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


# Makes the ASGI application upon a worker; the second argument says whether the server is stopping.
MakeApp = Callable[[AnyWorker, Callable[[], bool]], Callable[..., object]]


@dataclass(frozen=True, slots=True)
class Front:
    """What an HTTP process needs to know; it is sent to the process.

    Args:
        make_app: a function that the process can import, with arguments that can be sent to it.
        limits: of this process.
        metrics: the folder of all processes' figures.
    """

    make_app: MakeApp
    limits: Limits
    num_slots: int
    max_queued: int
    grace_s: float
    metrics: Path


class HttpProcesses:
    """The processes that read and answer requests, and the loop that passes their requests on to the worker.

    Args:
        front: what they are told.
        sockets: one for each process, from `bind_shared`.
    """

    def __init__(self, front: Front, sockets: Sequence[socket.socket]) -> None:
        # Not above, since the processes import this file too, and need not wait until torch is loaded.
        from falconer import runtime

        self._front, self._sockets = front, sockets
        context = multiprocessing.get_context("spawn")
        self._links: list[socket.socket] = []
        self._processes: list[BaseProcess] = []
        others: list[socket.socket] = []
        # They obey this process, not signals, which a terminal sends to all of them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            with runtime.share_metrics(front.metrics):
                for bound in sockets:
                    ours, theirs = socket.socketpair()
                    self._links.append(ours)
                    self._processes.append(context.Process(target=_serve, args=(theirs, bound, front), daemon=True))
                    others.append(theirs)
                # Each start waits until the process has loaded its libraries; threads have this one's signal mask.
                with ThreadPoolExecutor(len(self._processes)) as starters:
                    for _ in starters.map(lambda process: process.start(), self._processes):
                        pass
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            for theirs in others:
                theirs.close()
        self._stopping: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, worker: Worker, on_start: Callable[[], None]) -> None:
        """Serve until a signal or `stop`.

        Args:
            on_start: called when all processes listen.

        Raises:
            FalconerError: a process did not start, or ended by itself.
        """
        sys.setswitchinterval(SWITCH_S)
        for bound in self._sockets:
            bound.close()
        try:
            asyncio.run(self._run(worker, on_start))
        finally:
            for process in self._processes:
                process.kill()
                process.join()

    def stop(self) -> None:
        """Finish what runs, then end; may be called from any thread."""
        if self._loop is not None and self._stopping is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def _run(self, worker: Worker, on_start: Callable[[], None]) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        for number in _SIGNALS:
            self._loop.add_signal_handler(number, partial(self._obey, number))
        await worker.start()
        relays = [Relay(worker, *await asyncio.open_unix_connection(sock=link)) for link in self._links]
        serving = [asyncio.create_task(relay.run()) for relay in relays]
        try:
            await self._until_ready(relays, serving)
            on_start()
            stop = asyncio.create_task(self._stopping.wait())
            await asyncio.wait([stop, *serving], return_when=asyncio.FIRST_COMPLETED)
            is_lost = not stop.done()
            stop.cancel()
            for relay in relays:
                relay.stop()
            await worker.close(self._front.grace_s)
            for relay in relays:
                relay.end()
            await asyncio.wait(serving, timeout=FLUSH_S + _END_S)
        except BaseException:
            await worker.close(0)
            raise
        finally:
            for relay in relays:
                relay.hang_up()
            await asyncio.wait(serving)
        if is_lost:
            raise FalconerError("One of the server's HTTP processes ended by itself.", "Start the server again.")

    async def _until_ready(self, relays: Sequence[Relay], serving: Sequence[asyncio.Task[None]]) -> None:
        ready = asyncio.create_task(_all_ready(relays))
        await asyncio.wait({ready, *serving}, timeout=_START_S, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            raise FalconerError(
                "One of the server's HTTP processes did not start; its error is above, if it said any.",
                "Start the server with --http-processes 1.",
            )

    def _obey(self, number: int) -> None:
        assert self._stopping is not None
        if self._stopping.is_set():
            os._exit(128 + number)
        self._stopping.set()


async def _all_ready(relays: Sequence[Relay]) -> None:
    for relay in relays:
        await relay.is_ready.wait()


def _serve(link: socket.socket, bound: socket.socket, front: Front) -> None:
    """Be an HTTP process until the engine's process says so, or is gone."""
    worker = RemoteWorker(link, num_slots=front.num_slots, max_queued=front.max_queued)
    app = front.make_app(worker, lambda: server.is_stopping)
    server = Server(app, worker, front.limits, grace_s=front.grace_s, on_start=lambda: None)
    worker.on_stop = server.stop
    server.run(sockets=[bound])
