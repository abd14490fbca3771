"""The answer to a request while its replies are generated: whole, or as a stream; ended by time, error or departure."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from falconer.errors import FalconerError
from falconer.talk.server.bodies import DONE, Bodies, Usage, failure
from falconer.talk.server.errors import ApiError, failed
from falconer.talk.server.reading import Piece, Reading
from falconer.talk.server.trouble import report
from falconer.talk.server.worker import BrokenError, QueueFullError, StoppingError

DROPPED = "X-Dropped-Turns"
T = TypeVar("T")


class Answer(Response):
    """Answers a request. The status of a stream is sent with the first token, so that an early error has its own.

    Args:
        is_stream: send events, as the replies are generated.
        num_prompt: tokens of the prompt.
        limit_s: how long all of it may take.
        on_end: called at the end, whatever it was.
    """

    def __init__(
        self, readings: Sequence[Reading], bodies: Bodies, *, is_stream: bool, num_prompt: int, limit_s: float,
        on_end: Callable[[], None],
    ) -> None:  # fmt: skip
        kind = "text/event-stream" if is_stream else "application/json"
        headers = {DROPPED: str(bodies.num_dropped)} if bodies.is_chat else {}
        if is_stream:
            # nginx would hold events back to send them together.
            headers["X-Accel-Buffering"] = "no"
        super().__init__(None, 200, headers, kind)
        # The length is not known yet.
        del self.headers["content-length"]
        self._readings, self._bodies, self._is_stream = readings, bodies, is_stream
        self._num_prompt, self._limit_s, self._on_end = num_prompt, limit_s, on_end
        self._has_started = False

    @property
    def usage(self) -> Usage:
        """The tokens so far."""
        cached = max((reading.num_cached for reading in self._readings), default=0)
        return Usage(self._num_prompt, cached, sum(reading.num_tokens for reading in self._readings))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.create_task(self._stream(send) if self._is_stream else self._whole(send))
        departure = asyncio.create_task(_departure(receive))
        try:
            await asyncio.wait((work, departure), timeout=self._limit_s, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                error = _error_of(work)
            elif departure.done():
                raise ClientDisconnect
            else:
                error = ApiError(504, f"The request was stopped after {self._limit_s:g} seconds.", code="timeout")
            if error:
                await self._fail(error, scope, receive, send, work)
        finally:
            self._give_up()
            for task in (work, departure):
                task.cancel()
            self._on_end()
            await asyncio.wait((work, departure))
            if not work.cancelled():
                work.exception()  # looked at, so that asyncio does not report it

    async def _whole(self, send: Send) -> None:
        replies = await _together([_collect(reading) for reading in self._readings])
        found = [(pieces, reading.finish) for pieces, reading in zip(replies, self._readings, strict=True)]
        body = self._bodies.whole(found, self.usage)
        self.headers["content-length"] = str(len(body))
        await self._start(send)
        await send(_body(body, is_last=True))

    async def _stream(self, send: Send) -> None:
        await _together([self._send_reply(index, reading, send) for index, reading in enumerate(self._readings)])
        await send(_body(self._bodies.usage(self.usage) + DONE, is_last=True))

    async def _send_reply(self, index: int, reading: Reading, send: Send) -> None:
        num_characters, before = 0, self._bodies.opening(index)
        async for piece in reading.pieces():
            event = before
            if piece.text or piece.said:
                event += self._bodies.piece(index, piece, num_characters)
                num_characters += len(piece.text)
            if reading.finish:
                event += self._bodies.closing(index, reading.finish)
            before = b""
            if not self._has_started:
                await self._start(send)
            await send(_body(event))

    async def _start(self, send: Send) -> None:
        self._has_started = True
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

    async def _fail(
        self, error: ApiError, scope: Scope, receive: Receive, send: Send, work: asyncio.Task[None]
    ) -> None:
        """Tell the client what went wrong: with a status, or in a stream that has started with an event."""
        self._give_up()
        # It must not send in between.
        work.cancel()
        await asyncio.wait((work,))
        if not self._has_started:
            self.status_code = error.status
            await error.response()(scope, receive, send)
        else:
            await send(_body(failure(error), is_last=True))

    def _give_up(self) -> None:
        """Free the places of replies that are not finished."""
        for reading in self._readings:
            reading.cancel()


async def _collect(reading: Reading) -> list[Piece]:
    return [piece async for piece in reading.pieces()]


async def _together(work: Sequence[Coroutine[None, None, T]]) -> list[T]:
    """Do several things at the same time; the first error ends all of them."""
    if len(work) == 1:
        return [await work[0]]
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _departure(receive: Receive) -> None:
    """Return when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


def refusal(error: QueueFullError | StoppingError | BrokenError) -> ApiError:
    """Return what a client is told if the worker does not generate a reply."""
    if isinstance(error, QueueFullError):
        what, wait_s = "The queue of this server is full; try again later.", 2
        return ApiError(429, what, code="queue_full", headers={"Retry-After": str(wait_s)})
    if isinstance(error, StoppingError):
        what = "The server is shutting down and accepts no further requests."
        return ApiError(503, what, code="stopping", headers={"Retry-After": "10", "Connection": "close"})
    return ApiError(503, "The engine has failed; the server must be started again.", code="engine_failed")


def _error_of(work: asyncio.Task[None]) -> ApiError | None:
    """Return what a client is told of an error; None if there was none."""
    error = work.exception()
    if error is None or isinstance(error, ApiError):
        return error
    if isinstance(error, (StoppingError, BrokenError)):
        return refusal(error)
    if isinstance(error, FalconerError):
        return ApiError(503, str(error), code="engine_failed", headers={"Retry-After": "10"})
    report(error)
    return failed()


def _body(content: bytes, *, is_last: bool = False) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": not is_last}
