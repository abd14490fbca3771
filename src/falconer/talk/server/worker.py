"""The thread that drives the running batch, and the streams of tokens that it sends to the event loop.

Requests wait in a queue until a slot is free. Between two steps, those that have waited longest join, and those whose
clients have gone away leave. All methods are called on the event loop's thread.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from falconer.errors import FalconerError
from falconer.model.request import Joining, Request, Said, Writing

if TYPE_CHECKING:
    from falconer.model.engine import RunningBatch

# Maximum number of prompt tokens that join between two steps, since the running replies wait for them.
JOIN_TOKENS = 4096
# A pass over few prompts takes nearly as long as one over many. While many replies are running, requests wait until one
# for each `RUNNING_OF_A_JOINING` of them has come, but for no more than `MOST_STEPS_WAITED`.
RUNNING_OF_A_JOINING, MOST_STEPS_WAITED = 16, 4
# While many replies are running, their tokens are delivered every few steps, since each delivery takes some time of the
# event loop's: every step for fewer than so many replies, every second step for twice as many, and so on.
RUNNING_OF_A_DELIVERY = 64


class QueueFullError(Exception):
    """As many requests as allowed are waiting already."""


class StoppingError(Exception):
    """The server finishes what runs and accepts no new requests."""


class BrokenError(Exception):
    """The engine has failed in a way from which it does not recover; the process must be started again."""


@dataclass(frozen=True, slots=True)
class Figures:
    """How the running batch stands.

    Args:
        num_running: replies that are being generated.
        num_queued: requests that wait for a slot.
        num_steps: steps since the start.
        is_broken: the engine has failed for good; see `BrokenError`.
    """

    num_running: int = 0
    num_queued: int = 0
    num_steps: int = 0
    is_broken: bool = False


@dataclass(slots=True)
class Counts:
    """What the worker has done since it was started.

    Args:
        num_joined: requests that have joined the batch.
        num_steps: steps of the running batch.
        prompt_tokens, cached_tokens: tokens of all prompts, and how many of them were cached.
        generated_tokens: tokens of all replies.
    """

    num_joined: int = 0
    num_steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0


class _Canceller(Protocol):
    """What generates a stream's reply."""

    def cancel(self, stream: "Stream") -> None:
        """Give the reply's slot to others before the next step."""


class AnyWorker(Protocol):
    """The worker as the routes of a server see it: `Worker`, or `RemoteWorker` in another process than the engine's."""

    @property
    def num_slots(self) -> int: ...
    @property
    def max_queued(self) -> int: ...
    @property
    def figures(self) -> Figures: ...
    async def refresh(self) -> None:
        """Bring `figures` up to date."""

    async def start(self) -> None: ...
    async def close(self, grace_s: float) -> None: ...
    async def submit(self, request: Request, adapter: str | None) -> "Stream":
        """Let a request wait for its slot.

        Args:
            adapter: the name of its adapter; None: the base alone.

        Raises:
            QueueFullError, StoppingError, BrokenError: it is not accepted.
        """


@dataclass(slots=True, eq=False)
class Stream:
    """The tokens of a reply, as an asynchronous iterator over lists of those that have arrived since the last look.

    Args:
        num_cached: tokens of the prompt that did not have to be computed; set before the first tokens arrive.

    Raises:
        FalconerError: when iterated: the engine could not generate the reply, or not all of it.
        StoppingError: when iterated: the server was stopped before the reply was finished.
        BrokenError: when iterated: see there.
    """

    joining: Joining
    num_cached: int = 0
    worker: _Canceller | None = None
    is_over: bool = False
    _arrived: list[Said] = field(default_factory=list)
    _has_news: asyncio.Event = field(default_factory=asyncio.Event)
    _error: Exception | None = None

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> list[Said]:
        while not self._arrived and not self.is_over:
            self._has_news.clear()
            await self._has_news.wait()
        if self._arrived:
            arrived, self._arrived = self._arrived, []
            return arrived
        if self._error:
            raise self._error
        raise StopAsyncIteration

    def cancel(self) -> None:
        """End the reply, and free its slot before the next step; nothing happens if it has ended already."""
        if not self.is_over and self.worker:
            self.worker.cancel(self)
            self.end(None)

    def deliver(self, said: Sequence[Said]) -> None:
        """Add tokens; called by the worker, on the event loop's thread."""
        if not self.is_over:
            self._arrived += said
            self._has_news.set()

    def end(self, error: Exception | None) -> None:
        """End the reply, with what went wrong; called by the worker, on the event loop's thread."""
        if not self.is_over:
            self.is_over, self._error = True, error
            self._has_news.set()


# What the thread sends to the event loop: a stream, its new tokens, whether it is finished, and why if it failed.
_News = tuple[Stream, list[Said], bool, Exception | None]


class Worker:
    """Drives a running batch in a thread of its own.

    Args:
        running: the batch, which nobody else may use.
        max_queued: how many requests may wait when all slots are taken.

    Attributes:
        counts: for the metrics.
    """

    def __init__(self, running: "RunningBatch", *, max_queued: int) -> None:
        self._running, self.max_queued = running, max_queued
        self.num_slots = running.num_slots
        self.counts = Counts()
        self._open: set[Stream] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._is_stopping, self._broken = False, False
        # Shared with the thread, under the lock of the condition.
        self._changed = threading.Condition()
        self._waiting: deque[Stream] = deque()
        self._cancelled: list[Stream] = []
        self._must_end = False
        # The thread's own.
        self._writing: dict[Writing, Stream] = {}
        self._steps_waited = 0
        # Memory had no room for a step: requests wait until a reply has ended.
        self._is_short = False
        # Tokens that have not been delivered yet.
        self._held: dict[Stream, list[Said]] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What slows the model down here, in sentences for the user."""
        return self._running.notes

    @property
    def figures(self) -> Figures:
        """How the batch stands now."""
        return Figures(self._running.num_running, len(self._waiting), self.counts.num_steps, self._broken)

    async def refresh(self) -> None:
        """Do nothing: the figures are always up to date."""

    async def start(self) -> None:
        """Start the thread."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def close(self, grace_s: float) -> None:
        """Refuse new requests, wait until the accepted ones are finished, and end the thread.

        Args:
            grace_s: after so many seconds, the replies that are not finished are ended with `StoppingError`.
        """
        self._is_stopping = True
        loop = asyncio.get_running_loop()
        end = loop.time() + grace_s
        while self._open and loop.time() < end and not self._broken:
            await asyncio.sleep(0.02)
        for stream in list(self._open):
            self.cancel(stream)
            stream.end(StoppingError())
        with self._changed:
            self._must_end = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    async def submit(self, request: Request, adapter: str | None) -> Stream:
        """Let a request wait for its slot; see `AnyWorker`."""
        stream = Stream(Joining(request, adapter))
        self.take(stream)
        return stream

    def take(self, stream: Stream) -> None:
        """Let a stream's request wait for its slot.

        Raises:
            QueueFullError, StoppingError, BrokenError: it is not accepted.
        """
        if self._broken:
            raise BrokenError
        if self._is_stopping:
            raise StoppingError
        if len(self._open) >= self.num_slots + self.max_queued:
            raise QueueFullError
        stream.worker = self
        self._open.add(stream)
        with self._changed:
            self._waiting.append(stream)
            self._changed.notify()

    def cancel(self, stream: Stream) -> None:
        """Give a reply's slot to others; called by the stream."""
        self._open.discard(stream)
        with self._changed:
            self._cancelled.append(stream)
            self._changed.notify()

    def _work(self) -> None:
        try:
            while (joining := self._next()) is not None:
                news: list[_News] = []
                self._join(joining, news)
                self._step(news)
                self._tell(news)
        except Exception:
            logging.getLogger(__name__).exception("The engine has failed; the server must be started again.")
            self._broken = True
            with self._changed:
                left = [*self._writing.values(), *self._waiting]
            self._tell([(stream, [], True, BrokenError()) for stream in left])

    def _next(self) -> list[Stream] | None:
        """Wait for work, let cancelled replies leave, and return the requests that join now; None at the end."""
        with self._changed:
            while not (self._waiting or self._cancelled or self._writing or self._must_end):
                self._changed.wait()
            if self._must_end:
                return None
            cancelled, self._cancelled = set(map(id, self._cancelled)), []
            if cancelled:
                self._waiting = deque(stream for stream in self._waiting if id(stream) not in cancelled)
            for writing in [one for one, stream in self._writing.items() if id(stream) in cancelled]:
                self._running.leave(writing)
                self._held.pop(self._writing.pop(writing), None)
                self._is_short = False
            joining: list[Stream] = []
            tokens = 0
            if not self._must_join():
                return joining
            while self._waiting and len(joining) < self.num_slots - self._running.num_running:
                size = len(self._waiting[0].joining.request.prompt)
                if joining and tokens + size > JOIN_TOKENS:
                    break
                joining.append(self._waiting.popleft())
                tokens += size
            return joining

    def _must_join(self) -> bool:
        if not self._waiting or (self._is_short and self._writing):
            return False
        free = self.num_slots - self._running.num_running
        few = min(free, len(self._waiting)) * RUNNING_OF_A_JOINING < self._running.num_running
        self._steps_waited = self._steps_waited + 1 if few else 0
        if self._steps_waited % (MOST_STEPS_WAITED + 1):
            return False
        self._steps_waited = 0
        return True

    def _join(self, streams: Sequence[Stream], news: list[_News]) -> None:
        """Let requests join; if together they can't, each alone, so that only those fail that can't alone."""
        if not streams:
            return
        try:
            writings = self._running.join([stream.joining for stream in streams])
        except FalconerError as error:
            if len(streams) == 1:
                news.append((streams[0], [], True, error))
            else:
                for stream in streams:
                    self._join([stream], news)
            return
        for stream, writing in zip(streams, writings, strict=True):
            stream.num_cached = writing.num_cached
            self._writing[writing] = stream
            self.counts.num_joined += 1
            self.counts.prompt_tokens += len(writing.request.prompt)
            self.counts.cached_tokens += writing.num_cached

    def _step(self, news: list[_News]) -> None:
        if not self._writing:
            return
        found = self._next_tokens(news)
        self.counts.num_steps += 1
        self.counts.generated_tokens += len(found)
        is_first: set[Stream] = set()
        for writing, one in found:
            # One that has been cancelled may still report a token.
            if writing in self._writing:
                stream = self._writing[writing]
                self._held.setdefault(stream, []).append(one)
                if one is writing.said[0]:
                    is_first.add(stream)
        over = [writing for writing in self._writing if writing.is_done]
        finished = {self._writing.pop(writing) for writing in over}
        self._is_short = self._is_short and not finished
        is_due = self.counts.num_steps % (1 + len(self._writing) // RUNNING_OF_A_DELIVERY) == 0
        for stream in list(self._held):
            if is_due or stream in finished or stream in is_first:
                news.append((stream, self._held.pop(stream), stream in finished, None))

    def _next_tokens(self, news: list[_News]) -> list[tuple[Writing, Said]]:
        """Do a step. Where memory has no room for it, those that joined last end, since the least of them is lost.

        They are one, then two more, then four, until there is room: each attempt takes time from the others.
        """
        num = 1
        while self._writing:
            try:
                return self._running.step()
            except FalconerError as error:
                self._is_short = True
                for writing in [one for one in self._writing if not one.is_done][-num:]:
                    self._running.leave(writing)
                    stream = self._writing.pop(writing)
                    news.append((stream, self._held.pop(stream, []), True, error))
                num *= 2
        return []

    def _tell(self, news: list[_News]) -> None:
        if news and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, news)

    def _deliver(self, news: list[_News]) -> None:
        for stream, said, is_over, error in news:
            if said:
                stream.deliver(said)
            if is_over:
                self._open.discard(stream)
                stream.end(error)
