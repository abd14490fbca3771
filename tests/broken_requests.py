"""Broken requests on raw sockets, of many kinds; `besieged.py` sends them."""

import asyncio
import contextlib
import json
import os
import random
import re
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

CHAT = "/v1/chat/completions"
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
# Long enough for the server's own time limits to end a connection.
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Server:
    """A server to attack.

    Args:
        pid: of its process, whose open files are counted.
        model: the name of a model that it serves.
        quick: do not wait for its time limits.
    """

    host: str
    port: int
    pid: int
    model: str
    quick: bool = True

    def body(self, text: str = "hi there !", **fields: object) -> bytes:
        """Return the body of a good request."""
        messages = [{"role": "system", "content": "i have two dogs ."}, {"role": "user", "content": text}]
        return json.dumps({"model": self.model, "messages": messages, "temperature": 0} | fields).encode()

    def request(
        self, body: bytes | None = None, *, length: object = None, more: str = "", method: str = "POST"
    ) -> bytes:
        """Return a request, which is a good one unless an argument spoils it."""
        body = self.body() if body is None else body
        length = len(body) if length is None else length
        lines = [f"{method} {CHAT} HTTP/1.1", f"Host: {self.host}", "Content-Type: application/json"]
        if length != "":
            lines.append(f"Content-Length: {length}")
        return "\r\n".join([*lines, *more.splitlines(), "", ""]).encode() + body

    def open_files(self) -> int:
        """Return how many files the server's process has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))


class Line:
    """A connection."""

    def __init__(self, server: Server, connection: socket.socket) -> None:
        self.server, self._socket = server, connection
        self._loop = asyncio.get_running_loop()
        self.received = b""

    async def send(self, data: bytes) -> None:
        # The server may have closed the connection by now, as it should after many a request here.
        with contextlib.suppress(ConnectionError):
            await self._loop.sock_sendall(self._socket, data)

    async def send_slowly(self, data: bytes, pause_s: float = 0.002) -> None:
        for byte in data:
            await self.send(bytes([byte]))
            await asyncio.sleep(pause_s)

    async def read(self, until: bytes | None = None, timeout_s: float | None = None) -> bytes:
        """Receive until a text is there, or to the end of the connection, or so long."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(timeout_s or PATIENCE_S):
                while until is None or until not in self.received:
                    data = await self._loop.sock_recv(self._socket, 2**16)
                    if not data:
                        break
                    self.received += data
        return self.received

    async def is_closed(self) -> bool:
        """Wait for the server to close the connection; tell whether it did."""
        started = time.monotonic()
        await self.read()
        return time.monotonic() - started < PATIENCE_S

    def end_sending(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close the connection without a farewell: the server's next packet is answered with a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


@contextlib.asynccontextmanager
async def line(server: Server, *, receive_buffer: int | None = None) -> AsyncIterator[Line]:
    connection = socket.socket()
    connection.setblocking(False)
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (server.host, server.port))
        yield Line(server, connection)
    finally:
        connection.close()


Attack = Callable[[Server, random.Random, "Line"], Awaitable[frozenset[int] | None]]
# What an attack expects is the set of statuses that are right; None: any answer below 500, or none at all.
OK, BAD, ANY = frozenset({200}), frozenset({400}), None


# Clients that go away


async def leaves_in_the_head(server: Server, chance: random.Random, line: Line) -> None:
    head = server.request().split(b"\r\n\r\n")[0]
    await line.send(head[: chance.randrange(len(head))])
    await asyncio.sleep(chance.choice((0, 0.01)))


async def leaves_in_the_body(server: Server, chance: random.Random, line: Line) -> None:
    whole = server.request()
    await line.send(whole[: whole.index(b"\r\n\r\n") + 4 + chance.randrange(len(server.body()))])
    await asyncio.sleep(chance.choice((0, 0.01)))


async def resets_in_the_body(server: Server, chance: random.Random, line: Line) -> None:
    await leaves_in_the_body(server, chance, line)
    line.reset()


async def leaves_before_the_first_token(server: Server, chance: random.Random, line: Line) -> None:
    await line.send(server.request(server.body(stream=chance.random() < 0.7, max_tokens=200, n=chance.choice((1, 3)))))
    await asyncio.sleep(chance.choice((0, 0, 0.003, 0.01)))
    if chance.random() < 0.5:
        line.reset()


async def leaves_in_a_stream(server: Server, chance: random.Random, line: Line) -> None:
    await line.send(server.request(server.body(stream=True, max_tokens=200, temperature=1, seed=chance.randrange(99))))
    await line.read(until=b'"content"')
    if chance.random() < 0.5:
        line.reset()


async def never_reads(server: Server, chance: random.Random, line: Line) -> None:
    body = server.body(stream=True, logprobs=True, top_logprobs=20, max_tokens=200, n=4, temperature=2, seed=1)
    await line.send(server.request(body))
    await asyncio.sleep(chance.uniform(0.1, 0.6))


async def ends_sending_after_the_request(server: Server, chance: random.Random, line: Line) -> None:
    # Whether such a client still reads can't be known; both an answer and none are right.
    await line.send(server.request(server.body(stream=chance.random() < 0.5, max_tokens=8)))
    line.end_sending()
    await line.read(timeout_s=10)


# Slow clients


async def sends_byte_by_byte(server: Server, chance: random.Random, line: Line) -> frozenset[int]:
    await line.send_slowly(server.request(server.body(max_tokens=4), more="Connection: close"))
    await line.read()
    return OK


async def sends_slowly_and_leaves(server: Server, chance: random.Random, line: Line) -> None:
    whole = server.request()
    await line.send_slowly(whole[: chance.randrange(1, len(whole) - 1)])


async def stops_in_the_head(server: Server, chance: random.Random, line: Line) -> None:
    await line.send(server.request()[: chance.randrange(60)])
    await _waits(server, line)


async def stops_in_the_body(server: Server, chance: random.Random, line: Line) -> None:
    await line.send(server.request()[:-1])
    await _waits(server, line)


async def says_nothing(server: Server, chance: random.Random, line: Line) -> None:
    await _waits(server, line)


async def _waits(server: Server, line: Line) -> None:
    if server.quick:
        await asyncio.sleep(0.2)
    elif not await line.is_closed():
        raise AssertionError("the connection was not closed")


# Lengths and chunks


async def has_a_wrong_length(server: Server, chance: random.Random, line: Line) -> frozenset[int]:
    size = len(server.body())
    wrong = chance.choice((-1, "x", "1e3", "0x10", "+5", size - 3, 0, 2**64, 10**30, f"{size}, {size + 1}"))
    await line.send(server.request(length=wrong))
    await line.read(until=b"}}")
    return frozenset({400, 413})


async def has_two_lengths(server: Server, chance: random.Random, line: Line) -> frozenset[int]:
    await line.send(server.request(more=f"Content-Length: {chance.randrange(9)}"))
    await line.read(until=b"}}")
    return BAD


async def has_length_and_chunks(server: Server, chance: random.Random, line: Line) -> None:
    body = b"0\r\n\r\n" + server.request()
    await line.send(server.request(body, more="Transfer-Encoding: chunked"))
    await line.read(timeout_s=2)


async def breaks_its_chunks(server: Server, chance: random.Random, line: Line) -> frozenset[int]:
    body = server.body()
    chunks = chance.choice((
        b"zz\r\n" + body, b"-5\r\n" + body, b"5\r\n" + body, b"\r\n\r\n" + body, b"ffffffffffffffffffff\r\n" + body,
        b"1;%s\r\n{" % (b"e" * 100_000), b"0x5\r\n{}   \r\n0\r\n\r\n", b"2\r\n{}xx0\r\n\r\n",
    ))  # fmt: skip
    await line.send(server.request(chunks, length="", more="Transfer-Encoding: chunked"))
    await line.read(until=b"}}", timeout_s=5)
    return frozenset({400, 413, 431})


async def leaves_between_chunks(server: Server, chance: random.Random, line: Line) -> None:
    await line.send(server.request(b'5\r\n{"mod\r\n', length="", more="Transfer-Encoding: chunked"))
    await asyncio.sleep(chance.choice((0, 0.02)))


async def sends_small_chunks(server: Server, chance: random.Random, line: Line) -> frozenset[int]:
    # With an extension, which is to be ignored.
    more = chance.choice((b"", b";a=b", b";" + b"e" * 20))
    chunks = b"".join(b"1%s\r\n%c\r\n" % (more, byte) for byte in server.body(max_tokens=4)) + b"0\r\n\r\n"
    await line.send(server.request(chunks, length="", more="Transfer-Encoding: chunked\r\nConnection: close"))
    await line.read()
    return OK


async def codes_its_body(server: Server, chance: random.Random, line: Line) -> None:
    coding = chance.choice(("gzip", "chunked, gzip", "gzip, chunked", "identity", "xchunked", "chunked, chunked"))
    await line.send(server.request(length="", more=f"Transfer-Encoding: {coding}\r\nConnection: close"))
    await line.read(timeout_s=2)


# Heads


async def has_a_huge_head(server: Server, chance: random.Random, line: Line) -> frozenset[int]:
    more = chance.choice((
        f"X-Long: {'x' * 200_000}", "\r\n".join(f"X-{number}: y" for number in range(20_000)), f"{'x' * 100_000}: y",
        f"Cookie: {'c' * 2**20}",
    ))  # fmt: skip
    await line.send(server.request(more=more))
    await line.read(until=b"}}")
    return frozenset({400, 431})


async def has_a_huge_path(server: Server, chance: random.Random, line: Line) -> frozenset[int]:
    await line.send(b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"a" * chance.choice((40_000, 300_000))))
    await line.read(until=b"}}")
    return frozenset({400, 414, 431})


async def has_a_malformed_head(server: Server, chance: random.Random, line: Line) -> None:
    more = chance.choice((
        "no colon", ": no name", "Na me: x", "X: a\0b", "X: \x7f\x01", " folded: x", "X: é\u20ac", "Host: two",
        "Content-Type:", "Expect: 200-maybe", "Authorization: Bearer \xff", "Transfer-Encoding:", "X:\t\v",
    ))  # fmt: skip
    await line.send(server.request(more=f"{more}\r\nConnection: close"))
    await line.read(timeout_s=5)


async def expects_a_continue(server: Server, chance: random.Random, line: Line) -> frozenset[int]:
    body = server.body(max_tokens=4)
    await line.send(server.request(b"", length=len(body), more="Expect: 100-continue\r\nConnection: close"))
    await line.read(until=b"\r\n\r\n", timeout_s=5)
    await line.send(body)
    await line.read()
    return OK


async def begins_oddly(server: Server, chance: random.Random, line: Line) -> None:
    await line.send(chance.choice((
        b"GET\r\n\r\n", b"GET /health\r\n\r\n", b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n", b"\r\n" * 50, b"\n\n\n",
        b"get /health HTTP/1.1\r\nHost: x\r\n\r\n", b"G\0T /health HTTP/1.1\r\n\r\n", b"GET  /health  HTTP/1.1\r\n\r\n",
        b"GET http://other.example/v1/models HTTP/1.1\r\nHost: x\r\n\r\n", b"CONNECT 127.0.0.1:22 HTTP/1.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /%zz%00 HTTP/1.1\r\n\r\n",
        b"GET /v1/models/%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /page/..%2f..%2fapp.py HTTP/1.1\r\nHost: x\r\n\r\n", b"BREW /health HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"HTTP2-Settings: \r\n\r\n",
    )))  # fmt: skip
    await line.read(until=b"}", timeout_s=0.5)


async def speaks_another_protocol(server: Server, chance: random.Random, line: Line) -> None:
    await line.send(chance.choice((
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03" + b"r" * 500,
        b"SSH-2.0-OpenSSH_9.2\r\n", b"EHLO example.org\r\n", b"*1\r\n$4\r\nPING\r\n", b"\xff\xfb\x1f",
    )))  # fmt: skip
    await line.read(timeout_s=0.5)


async def speaks_http_1_0(server: Server, chance: random.Random, line: Line) -> frozenset[int]:
    body, keep = (
        server.body(max_tokens=4, stream=chance.random() < 0.5),
        chance.choice((b"", b"Connection: keep-alive\r\n")),
    )
    head = b"POST %s HTTP/1.0\r\n%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    await line.send(head % (CHAT.encode(), keep, len(body)) + body)
    await line.read(until=b'"finish_reason"')
    return OK


async def is_random(server: Server, chance: random.Random, line: Line) -> None:
    await line.send(chance.randbytes(chance.choice((1, 100, 70_000))))
    await line.read(timeout_s=0.3)


async def is_changed_somewhere(server: Server, chance: random.Random, line: Line) -> None:
    whole = bytearray(server.request(server.body(max_tokens=2), more="Connection: close"))
    for _ in range(chance.choice((1, 1, 3, 20))):
        start = chance.randrange(len(whole))
        whole[start : start + chance.randrange(5)] = chance.randbytes(chance.randrange(5))
    await line.send(bytes(whole))
    await line.read(timeout_s=0.5)


# Bodies


async def has_a_bad_body(server: Server, chance: random.Random, line: Line) -> frozenset[int]:
    good = server.body()
    await line.send(server.request(chance.choice((
        b"", b" ", b"null", b"[]", b'"text"', b"{", good[:-1], good + b"x", good.replace(b"hi", b"\xff\xfe"),
        good.replace(b"hi", b"\xed\xa0\x80"), good.replace(b"hi", rb"\ud800"), good.decode().encode("utf-16"),
        good.replace(b"0}", b"NaN}"), good.replace(b"0}", b"1e999}"), good.replace(b"0}", b"-Infinity}"),
        b"[" * 200_000, b'{"a":' * 100_000, b"1" * 500_000, b'{"model": "x", "model": "y"}', b"\xef\xbb\xbf",
        server.body(model="no such"), server.body(messages=[]), server.body(n=10**9), server.body(max_tokens=-1),
        server.body(stop=[""]), server.body(text="word " * 50_000), server.body(seed=2**80), server.body(top_k=0.5),
    )), more="Connection: close"))  # fmt: skip
    await line.read()
    return frozenset({400, 404})


async def has_a_large_body(server: Server, chance: random.Random, line: Line) -> frozenset[int]:
    await line.send(server.request(server.body(text="x" * 10_000_000), more="Connection: close"))
    await line.read(until=b"}}")
    return frozenset({413})


# Several requests on a connection


async def pipelines(server: Server, chance: random.Random, line: Line) -> frozenset[int]:
    number = chance.choice((2, 5))
    await line.send(server.request(server.body(max_tokens=3)) * number)
    last = server.request(server.body(max_tokens=3), more="Connection: close")
    await line.send(last)
    statuses = STATUS.findall(await line.read())
    assert statuses == [b"200"] * (number + 1), f"{number + 1} requests at once, and the answers {statuses}"
    return OK


async def pipelines_and_leaves(server: Server, chance: random.Random, line: Line) -> None:
    await line.send(server.request(server.body(max_tokens=100, stream=True)) * chance.choice((2, 40)))
    await line.read(until=b'"content"', timeout_s=chance.choice((0.01, 5)))


async def pipelines_garbage(server: Server, chance: random.Random, line: Line) -> frozenset[int]:
    await line.send(server.request(server.body(max_tokens=3)) + b"\0garbage\r\n\r\n")
    await line.read(timeout_s=5)
    # The answer to the first request may be lost with the connection, but it can't be another one.
    return frozenset({200, 400})


ATTACKS: tuple[Attack, ...] = (
    leaves_in_the_head, leaves_in_the_body, resets_in_the_body, leaves_before_the_first_token, leaves_in_a_stream,
    never_reads, ends_sending_after_the_request, sends_byte_by_byte, sends_slowly_and_leaves, stops_in_the_head,
    stops_in_the_body, says_nothing, has_a_wrong_length, has_two_lengths, has_length_and_chunks, breaks_its_chunks,
    leaves_between_chunks, sends_small_chunks, codes_its_body, has_a_huge_head, has_a_huge_path, has_a_malformed_head,
    expects_a_continue, begins_oddly, speaks_another_protocol, speaks_http_1_0, is_random, is_changed_somewhere,
    has_a_bad_body, has_a_large_body, pipelines, pipelines_and_leaves, pipelines_garbage,
)  # fmt: skip
