"""The worker as an HTTP process has it: requests go to the engine's process, which sends the replies' tokens back."""

import asyncio
import itertools
import socket
from collections.abc import Callable
from typing import Any

from falconer.model.request import Joining, Request
from falconer.talk.server.messages import WHY, asked, error_of, frame, messages, said_of
from falconer.talk.server.worker import BrokenError, Figures, Stream


class RemoteWorker:
    """Has the interface of a `Worker`, which runs in the engine's process.

    Args:
        link: the socket to the engine's process.
        num_slots, max_queued: the worker's.
    """

    def __init__(self, link: socket.socket, *, num_slots: int, max_queued: int) -> None:
        self.num_slots, self.max_queued = num_slots, max_queued
        # Called when the engine's process wants the server to end, or is gone.
        self.on_stop: Callable[[], None] = lambda: None
        self.figures = Figures()
        self._link = link
        self._numbers = itertools.count()
        self._open: dict[int, Stream] = {}
        self._number_of: dict[Stream, int] = {}
        self._decisions: dict[int, asyncio.Future[Exception | None]] = {}
        self._looks: list[asyncio.Future[None]] = []
        self._has_hung_up = False
        self._has_ended = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def start(self) -> None:
        """Say that requests can come."""
        reader, self._writer = await asyncio.open_unix_connection(sock=self._link)
        self._reading = asyncio.create_task(self._read(reader))
        self._send(frame("ready"))

    async def close(self, grace_s: float) -> None:
        """Wait until all replies have ended, those of other HTTP processes too, and hang up.

        Args:
            grace_s: without meaning: the engine's process looks at the time.
        """
        await self._has_ended.wait()
        if self._writer is not None and self._reading is not None:
            self._writer.close()
            await self._reading

    async def refresh(self) -> None:
        """Ask for the engine's figures; without an answer, the engine is broken."""
        if not self._has_hung_up:
            look = asyncio.get_running_loop().create_future()
            self._looks.append(look)
            self._send(frame("look"))
            await look

    async def submit(self, request: Request, adapter: str | None) -> Stream:
        """Let a request wait for its slot; see `Worker.submit`."""
        if self._has_hung_up:
            raise BrokenError
        number = next(self._numbers)
        stream = Stream(Joining(request, adapter), worker=self)
        decision = self._decisions[number] = asyncio.get_running_loop().create_future()
        self._open[number], self._number_of[stream] = stream, number
        self._send(asked(number, stream.joining))
        try:
            refused = await decision
        except asyncio.CancelledError:
            stream.cancel()
            raise
        finally:
            self._decisions.pop(number, None)
        if refused:
            self._forget(number)
            raise refused
        return stream

    def cancel(self, stream: Stream) -> None:
        """Give a reply's place to others; called by the stream."""
        number = self._number_of[stream]
        self._forget(number)
        if not self._has_hung_up:
            self._send(frame("cancel", number))

    def _send(self, content: bytes) -> None:
        assert self._writer is not None, "the worker was not started"
        self._writer.write(content)

    def _forget(self, number: int) -> None:
        stream = self._open.pop(number, None)
        if stream is not None:
            del self._number_of[stream]

    async def _read(self, reader: asyncio.StreamReader) -> None:
        async for word, *values in messages(reader):
            match word:
                case "news":
                    for part in values[0]:
                        self._deliver(*part)
                case "accepted":
                    self._decide(values[0], None)
                case "refused":
                    self._decide(values[0], WHY[values[1]]())
                case "figures":
                    self._look(Figures(*values))
                case "stop":
                    self.on_stop()
                case "end":
                    self._has_ended.set()
        self._hang_up()

    def _decide(self, number: int, refused: Exception | None) -> None:
        decision = self._decisions.get(number)
        if decision is not None and not decision.done():
            decision.set_result(refused)

    def _deliver(self, number: int, num_cached: int, tokens: list[int], details: Any, end: Any) -> None:
        stream = self._open.get(number)
        # One that was cancelled may still get tokens.
        if stream is None:
            return
        stream.num_cached = num_cached
        if tokens:
            stream.deliver(said_of(tokens, details))
        if end is not None:
            self._forget(number)
            stream.end(error_of(end))

    def _look(self, figures: Figures) -> None:
        self.figures = figures
        looks, self._looks = self._looks, []
        for look in looks:
            if not look.done():
                look.set_result(None)

    def _hang_up(self) -> None:
        self._has_hung_up = True
        self._has_ended.set()
        if self._writer is not None:
            self._writer.close()
        self._look(Figures(is_broken=True))
        for number in list(self._decisions):
            self._decide(number, BrokenError())
        for stream in list(self._open.values()):
            stream.end(BrokenError())
        self._open.clear()
        self._number_of.clear()
        self.on_stop()
