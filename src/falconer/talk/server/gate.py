"""What every request passes first: who may ask, security headers, the count of answers, and errors of our own.

Pure ASGI: it costs a stream one function call for each event.
"""

import hmac
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from falconer.talk.server.errors import ApiError
from falconer.talk.server.metrics import Metrics
from falconer.talk.server.trouble import report

# Answered without a key: what a load balancer asks, and static pages, in one of which a user enters the key.
_OPEN = frozenset(("/", "/health", "/docs", "/favicon.ico"))
_OPEN_FILES, _DATA = "/page/", "/page/data/"
# The statuses that are none of HTTP: the client has gone away before the answer's end (as nginx names it).
GONE = 499


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask.

    Args:
        key: that a request must carry; None: everybody may ask.
        hosts: the values of the Host header, without port, that are answered. A page of another site that reaches this
            server by a name of its own (DNS rebinding) is not. None: all of them.
        origins: of pages of other sites that may ask (CORS).
    """

    key: str | None = None
    hosts: frozenset[str] | None = None
    origins: frozenset[str] = frozenset()

    def check(self, headers: Headers, path: str) -> None:
        """Check a request's Host header and key.

        Raises:
            ApiError: 401 or 403.
        """
        host = headers.get("host")
        if self.hosts is not None and host is not None and _without_port(host) not in self.hosts:
            what = f"This server does not answer to the name '{_without_port(host)[:100]}'."
            raise ApiError(403, f"{what} Start it with --allow-host NAME to change that.", code="host_not_allowed")
        if self.key is not None and not _is_open(path):
            self.check_key(headers)

    def guard(self, request: Request) -> None:
        """Check a request's key, as a dependency of a route.

        Raises:
            ApiError: 401.
        """
        self.check_key(request.headers)

    def check_key(self, headers: Headers) -> None:
        """Check a request's key.

        Raises:
            ApiError: 401.
        """
        if self.key is None:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Headers are decoded as Latin-1. The comparison takes equally long wherever the keys differ.
        is_right = hmac.compare_digest(given.strip().encode("latin-1"), self.key.encode("utf-8"))
        if scheme.lower() != "bearer" or not is_right:
            what = "The API key is wrong." if given else "An API key is required."
            raise ApiError(
                401, f"{what} Send the header 'Authorization: Bearer KEY'.", code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip


class Gate:
    """The ASGI application around the routes.

    Args:
        on_answer: called with (request's scope, status, seconds) after each answer; None: nobody is told.
    """

    def __init__(
        self, app: ASGIApp, access: Access, metrics: Metrics,
        on_answer: Callable[[Scope, int, float], None] | None = None,
    ) -> None:  # fmt: skip
        self._app, self._access, self._metrics, self._on_answer = app, access, metrics, on_answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, is_complete = perf_counter(), 0, False
        scope.setdefault("state", {})["arrived"] = started
        headers = Headers(scope=scope)
        origin = headers.get("origin")

        async def sending(message: Message) -> None:
            nonlocal status, is_complete
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(message, origin)
            else:
                is_complete = not message.get("more_body", False)
            await send(message)

        try:
            try:
                await self._answer(scope, receive, sending, headers)
            except ClientDisconnect:
                status = GONE
            except Exception as error:
                report(error)
                # uvicorn cuts off an answer that is not complete.
                if not is_complete:
                    raise
        finally:
            self._count(scope, status, perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, headers: Headers) -> None:
        try:
            is_known = headers.get("origin") in self._access.origins
            if is_known and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                # Asked by the browser, before the page's own request and without its key.
                await send({"type": "http.response.start", "status": 204, "headers": []})
                await send({"type": "http.response.body", "body": b""})
                return
            self._access.check(headers, scope["path"])
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _add_headers(self, message: MutableMapping[str, Any], origin: str | None) -> None:
        headers = MutableHeaders(raw=list(message.get("headers", ())))
        headers.setdefault("X-Content-Type-Options", "nosniff")
        headers.setdefault("Cache-Control", "no-store")
        headers.setdefault("Referrer-Policy", "no-referrer")
        headers.setdefault("X-Frame-Options", "DENY")
        headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
        if self._access.origins:
            headers.add_vary_header("Origin")
            if origin in self._access.origins:
                headers["Access-Control-Allow-Origin"] = str(origin)
                headers["Access-Control-Allow-Methods"] = "GET, POST"
                headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
                headers["Access-Control-Expose-Headers"] = "X-Dropped-Turns, Retry-After"
                headers["Access-Control-Max-Age"] = "600"
        message["headers"] = headers.raw

    def _count(self, scope: Scope, status: int, took_s: float) -> None:
        state = scope["state"]
        route = getattr(scope.get("route"), "path_format", "other")
        self._metrics.requests.labels(route, state.get("model", ""), str(status or GONE)).inc()
        self._metrics.request_s.labels(route).observe(took_s)
        if self._on_answer:
            self._on_answer(scope, status, took_s)


def _is_open(path: str) -> bool:
    return path in _OPEN or (path.startswith(_OPEN_FILES) and not path.startswith(_DATA))


def _without_port(host: str) -> str:
    name, _, port = host.rpartition(":")
    return (name if name and port.isdecimal() else host).lower()
