"""Starting and stopping the server: the socket, the signals, and finishing what runs."""

import asyncio
import errno
import ipaddress
import logging
import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import uvicorn

from falconer.errors import FalconerError
from falconer.talk.server.connections import Connection
from falconer.talk.server.limits import Limits
from falconer.talk.server.worker import AnyWorker

# Names by which this machine is asked itself.
LOCAL_NAMES = frozenset(("localhost", "127.0.0.1", "[::1]", "::1"))
# For answers that are complete to reach their clients, after the last reply.
FLUSH_S = 5
# The engine's thread waits so long for the interpreter's lock while the event loop is busy; Python's default of 5 ms
# would be added to each step of the running batch.
SWITCH_S = 0.0005


class Server(uvicorn.Server):
    """uvicorn's server: a first signal lets it finish what runs, a second one ends it at once.

    Until the last reply is finished it goes on to listen, and answers further requests with 503.

    Args:
        on_start: called when the server listens.
        grace_s: how long replies may run on after the first signal.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        worker: AnyWorker,
        limits: Limits,
        *,
        grace_s: float,
        on_start: Callable[[], None],
    ) -> None:
        # Its messages would quote requests, and its errors are answered and reported by ourselves.
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
        super().__init__(
            uvicorn.Config(
                app, http=partial(Connection, limits), ws="none", lifespan="off", log_config=None, access_log=False,  # type: ignore[arg-type]
                server_header=False, proxy_headers=False, timeout_keep_alive=int(limits.idle_s) + 1,
                timeout_graceful_shutdown=FLUSH_S,
            )
        )  # fmt: skip
        self.is_stopping = False
        self._worker, self._grace_s, self._on_start = worker, grace_s, on_start
        self._finishing: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        sys.setswitchinterval(SWITCH_S)
        await self._worker.start()
        await super().startup(sockets)
        self._on_start()

    def stop(self) -> None:
        """Finish what runs, then end; may be called from any thread."""
        self.is_stopping = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Obey a signal; called by uvicorn. A signal that is obeyed is not raised again, so the exit code is 0."""
        if self.is_stopping:
            os._exit(128 + sig)
        self.stop()

    async def on_tick(self, counter: int) -> bool:
        if self.is_stopping and self._finishing is None:
            self._finishing = asyncio.create_task(self._finish())
        if self._finishing is not None and self._finishing.done():
            self._finishing.result()
            self.should_exit = True
        return await super().on_tick(counter)

    async def _finish(self) -> None:
        await self._worker.close(self._grace_s)
        loop = asyncio.get_running_loop()
        end = loop.time() + FLUSH_S
        while self.server_state.tasks and loop.time() < end:
            await asyncio.sleep(0.02)


def bind(host: str, port: int, *, is_shared: bool = False) -> socket.socket:
    """Return a socket that is bound to an address, and does not listen yet.

    Args:
        host: an address, or a name that has one.
        port: 0 for any that is free.
        is_shared: further sockets, bound in the same way, share the port; the system gives each some of the
            connections.

    Raises:
        FalconerError: the port is in use or not allowed, or there is no such address.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # 127.0.0.1 rather than ::1 for "localhost".
        family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if is_shared:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            raise FalconerError(
                f"Port {port} of {host} is in use.", f"Choose another one with --port {port + 1}, or --port 0 for any."
            ) from error
        if number == errno.EACCES:
            raise FalconerError(
                f"Port {port} needs special rights.", "Choose one from 1024, e.g. --port 8000, behind a proxy."
            ) from error
        raise FalconerError(
            f"'{host}' is no address of this machine.", "Use --host 127.0.0.1, or --host 0.0.0.0 for all addresses."
        ) from error
    return bound


def bind_shared(host: str, port: int, number: int) -> list[socket.socket]:
    """Return several sockets that share a port, which must be free.

    Raises:
        FalconerError: see `bind`.
    """
    # Alone, it is refused if another server listens there, even one that shares its port.
    with bind(host, port) as alone:
        port = alone.getsockname()[1]
    return [bind(host, port, is_shared=True) for _ in range(number)]


def is_loopback(host: str) -> bool:
    """Tell whether a host can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_key(key: str | None, host: str) -> None:
    """Refuse to serve other machines without a key.

    Raises:
        FalconerError: there is no key, or it can't be sent in a header.
    """
    make = 'export FALCONER_API_KEY="$(openssl rand -hex 24)"'
    if key is not None and (not key or not key.isascii() or not key.isprintable() or " " in key):
        raise FalconerError("FALCONER_API_KEY is empty or has spaces or other special characters.", f"Type: {make}")
    if key is None and not is_loopback(host):
        raise FalconerError(
            f"--host {host} lets other machines ask, so an API key is required, and FALCONER_API_KEY is not set.",
            f"Type: {make}",
        )
