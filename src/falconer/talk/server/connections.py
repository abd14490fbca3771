"""Connections: their number is bounded, and a client that sends its request too slowly, or never reads, is cut off.

uvicorn's own protocol waits for a request for ever, and takes as many headers as come.
"""

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from falconer.talk.server.errors import ApiError
from falconer.talk.server.limits import Limits

# What an answer that ends at its own time limit may take beyond it.
_GRACE_S = 2.0
# A byte of a body in chunks may come with so many others: "1\r\n", the byte, "\r\n", and some more.
_FOR_CHUNKS = 8
# How long a connection that was refused is read from, and how many of these there may be beyond the limit.
_LINGER_S, _MOST_LINGERING = 1.0, 64


class Connection(HttpToolsProtocol):
    """A connection of uvicorn with limits. One timer says how long its present state may last.

    Args:
        given: what uvicorn gives its protocols.
    """

    def __init__(self, limits: Limits, **given: Any) -> None:
        super().__init__(**given)
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._answering: RequestResponseCycle | None = None
        self._is_receiving = self._has_head = self._is_refused = self._is_head_too_large = False
        # Bytes of the present request: received, of its line and headers, and of its body.
        self._num_received = self._num_head = self._num_body = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait(self._limits.receive_s)
        num_over = len(self.connections) - self._limits.max_connections
        if num_over > 0:
            what = f"The server has {self._limits.max_connections:,} connections, which is its limit; try again later."
            self._refuse(ApiError(503, what, code="too_many_connections", headers={"Retry-After": "2"}))
            if num_over > _MOST_LINGERING:
                transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(None)
        self._give_up()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._num_received += len(data)
        super().data_received(data)
        # Bytes without use: a head that does not end, or what may stand before each chunk of a body.
        most = self._limits.max_head * (2 if self._has_head else 1) + _FOR_CHUNKS * self._num_body
        if self._is_receiving and self._num_received - self._num_body > most:
            self._is_head_too_large = True
            self.send_400_response("")

    def send_400_response(self, msg: str) -> None:
        """Answer to what is no HTTP, or too much; called by uvicorn, and for errors in the parser's callbacks."""
        if self._is_head_too_large:
            what = f"The request's line and headers are too large; allowed: {self._limits.max_head:,} bytes."
            self._refuse(ApiError(431, what, code="headers_too_large"))
        else:
            self._refuse(ApiError(400, "The request is not valid HTTP/1.1.", code="invalid_http"))

    # Called by the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_receiving = True
        self._wait(self._limits.receive_s)

    def on_url(self, url: bytes) -> None:
        self._num_head += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._num_head += len(name) + len(value)
        # Trailers, behind a body in chunks, mean nothing here.
        if not self._has_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._num_head > self._limits.max_head:
            self._is_head_too_large = True
            raise ValueError("too large")
        self._has_head = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._num_body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_receiving = self._has_head = False
        self._num_received = self._num_head = self._num_body = 0
        self._wait_for_answer()

    # Called by uvicorn

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # Of several requests that were sent at once, `cycle` of uvicorn's class is the last one, this the present one.
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._is_receiving:
            self._wait_for_answer()

    def _wait_for_answer(self) -> None:
        # An answer may come before the end of its request, as when the body is too large.
        self._wait(self._limits.request_s + _GRACE_S if self._is_answering() else self._limits.idle_s)

    def _is_answering(self) -> bool:
        return self._answering is not None and not self._answering.response_complete

    def _wait(self, limit_s: float | None) -> None:
        """Let the present state last so long; None: as long as it likes."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if limit_s is None else self.loop.call_later(limit_s, self._expire)

    def _expire(self) -> None:
        if self._is_refused:
            self.transport.close()
        elif self._is_receiving or self._answering is None:
            what = f"The request was not received within {self._limits.receive_s:g} seconds."
            self._refuse(ApiError(408, what, code="request_timeout"))
        elif self._is_answering():
            # The client does not read. Closing would wait until it does.
            self._give_up()
            self.transport.abort()
        else:
            self.transport.close()

    def _refuse(self, error: ApiError) -> None:
        """Answer without the application, and close the connection."""
        if self._is_refused or self.transport.is_closing():
            return
        has_begun = self._answering is not None and self._answering.response_started
        is_answering = self._is_answering()
        self._give_up()
        if has_begun and (is_answering or self._has_head):
            # This answer would stand in the middle of another one, or be a second one.
            self.transport.abort()
            return
        self._is_refused = True
        self.transport.write(_raw(error))
        # Closed at once, with data unread, the system would tell the client nothing but that it is closed.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._wait(_LINGER_S)

    def _give_up(self) -> None:
        """Tell the application that nobody waits for its answers."""
        self.pipeline.clear()
        if self._answering is not None and self._is_answering():
            self._answering.disconnected = True
            self._answering.message_event.set()


def _raw(error: ApiError) -> bytes:
    body = error.encoded()
    headers = {
        "Content-Type": "application/json", "Content-Length": len(body), "Connection": "close",
        "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", **error.headers,
    }  # fmt: skip
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n{lines}\r\n".encode("ascii") + body
