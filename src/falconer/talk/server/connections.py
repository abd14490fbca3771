"""Connections: their number is bounded, and a client that sends its request too slowly, or never reads, is cut off.

uvicorn's own protocol waits for a request for ever, takes as many headers as come, and tells only the last of several
requests on a connection that its client has gone away.
"""

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from falconer.talk.server.errors import ApiError
from falconer.talk.server.limits import Limits

# What an answer that ends at its own time limit may take beyond it.
_GRACE_S = 2.0


class Connection(HttpToolsProtocol):
    """A connection of uvicorn with limits. One timer says how long its present state may last.

    Args:
        given: what uvicorn gives its protocols.
    """

    def __init__(self, limits: Limits, **given: Any) -> None:
        super().__init__(**given)
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._head_size = 0
        self._is_receiving = self._has_head = False
        # The requests that have come, of which at most the first one is being answered.
        self._cycles: list[RequestResponseCycle] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            what = f"The server has {self._limits.max_connections:,} connections, which is its limit; try again later."
            self._refuse(ApiError(503, what, code="too_many_connections", headers={"Retry-After": "2"}))
            return
        self._wait(self._limits.receive_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(None)
        self._disconnect()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._has_head:
            self._head_size += len(data)
        super().data_received(data)
        if not self._has_head and self._head_size > self._limits.max_head:
            self._refuse_head()

    def send_400_response(self, msg: str) -> None:
        """Answer to what is no HTTP; called by uvicorn."""
        self._refuse(ApiError(400, "The request is not valid HTTP/1.1.", code="invalid_http"))

    # Called by the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_receiving = True
        self._wait(self._limits.receive_s)

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers, behind a body in chunks, mean nothing here.
        if not self._has_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._has_head = True
        # It may have come in one piece, together with what follows it.
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > self._limits.max_head:
            self._refuse_head()
            raise ValueError("the parser is to stop here")
        super().on_headers_complete()
        self._cycles = [cycle for cycle in (*self._cycles, self.cycle) if not cycle.response_complete]

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_receiving = self._has_head = False
        self._head_size = 0
        # An answer may come before the end of its request, as when the body is too large.
        self._wait(self._limits.idle_s if self.cycle.response_complete else self._limits.request_s + _GRACE_S)

    def on_response_complete(self) -> None:
        """Wait for what comes next; called by uvicorn."""
        super().on_response_complete()
        if not self._is_receiving:
            is_idle = self.cycle.response_complete
            self._wait(self._limits.idle_s if is_idle else self._limits.request_s + _GRACE_S)

    def _wait(self, limit_s: float | None) -> None:
        """Let the present state last so long; None: as long as it likes."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if limit_s is None else self.loop.call_later(limit_s, self._expire)

    def _expire(self) -> None:
        if self._is_receiving or self.cycle is None:
            if self.cycle is not None and self._has_head and self.cycle.response_started:
                # It has been answered before its end.
                self.transport.abort()
                return
            what = f"The request was not received within {self._limits.receive_s:g} seconds."
            self._refuse(ApiError(408, what, code="request_timeout"))
        elif self.cycle.response_complete:
            self.transport.close()
        else:
            # The client does not read. Closing would wait until it does.
            self.transport.abort()

    def _refuse(self, error: ApiError) -> None:
        """Answer without the application, and close the connection."""
        if self.transport.is_closing():
            return
        if any(cycle.response_started and not cycle.response_complete for cycle in self._cycles):
            # An earlier answer is on its way; this one would stand in the middle of it.
            self.transport.abort()
            return
        self._disconnect()
        self.transport.write(_raw(error))
        self.transport.close()

    def _refuse_head(self) -> None:
        what = f"The request's line and headers are too large; allowed: {self._limits.max_head:,} bytes."
        self._refuse(ApiError(431, what, code="headers_too_large"))

    def _disconnect(self) -> None:
        """Tell the application that nobody waits for its answers."""
        for cycle in self._cycles:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()


def _raw(error: ApiError) -> bytes:
    body = error.encoded()
    headers = {
        "Content-Type": "application/json", "Content-Length": len(body), "Connection": "close",
        "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", **error.headers,
    }  # fmt: skip
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n{lines}\r\n".encode("ascii") + body
