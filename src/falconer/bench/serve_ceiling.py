"""The upper bound for a load test: how fast the clients read a server that computes nothing, on the same machine."""

import asyncio
import json
import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection

import httptools

from falconer.bench.serve_client import DATA, DONE, END_OF_EVENT
from falconer.bench.serve_load import Load, Talk, run_load

HOST = "127.0.0.1"
WORD = " word"


def client_ceiling(
    talks: Sequence[Talk], num_streams: int, num_processes: int, num_tokens: int, seconds: float = 2.0
) -> float:
    """Return the tokens/s that the clients read if the server sends each token as a piece of its own, at once.

    Whichever of both is slower, these clients or the trivial server with its two processes, sets this rate, so the
    clients alone may be faster.
    """
    context = multiprocessing.get_context("spawn")
    servers, ports = [], []
    for _ in range(2):
        ours, theirs = context.Pipe()
        server = context.Process(target=_server_process, args=(theirs, num_tokens), daemon=True)
        server.start()
        servers.append(server)
        ports.append(ours.recv())
    try:
        load = Load(
            HOST, ports[0], ("trivial",), tuple(talks), num_streams, spread_s=0.0, seconds=seconds, options={},
            more_ports=tuple(ports[1:]),
        )  # fmt: skip
        found = run_load(load, num_processes)
    finally:
        for server in servers:
            server.kill()
            server.join()
    num = sum(len(done.answer.pieces) for done in found)
    return num / (max(done.answer.ended_s for done in found) - found[0].answer.sent_s)


def _server_process(pipe: Connection, num_tokens: int) -> None:
    asyncio.run(_serve(pipe, num_tokens))


async def _serve(pipe: Connection, num_tokens: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: TrivialServer(num_tokens), HOST, 0)
    pipe.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


class TrivialServer(asyncio.Protocol):
    """Answers each request with a stream of `num_tokens` equal words, each of them written by itself."""

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        self._transport.write(head)
        self._write(0)

    def _write(self, place: int) -> None:
        """Write one word; the other streams' next words come before this one's."""
        if self._transport.is_closing():
            return
        is_last = place == self._num_tokens - 1
        piece = {"index": 0, "delta": {"content": WORD}, "finish_reason": "length" if is_last else None}
        # As many bytes as a real server sends for each token.
        event = {"id": "chatcmpl-" + "0" * 29, "object": "chat.completion.chunk", "created": 0, "model": "trivial"}
        self._transport.write(chunk(json.dumps(event | {"choices": [piece]}).encode()))
        if is_last:
            self._transport.write(chunk(DONE) + b"0\r\n\r\n")
            return
        asyncio.get_running_loop().call_soon(self._write, place + 1)


def chunk(data: bytes) -> bytes:
    """Return an event with this data, as a chunk of an HTTP response."""
    event = DATA + b" " + data + END_OF_EVENT
    return f"{len(event):x}\r\n".encode() + event + b"\r\n"
