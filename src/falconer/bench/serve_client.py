"""A client for load tests of the server: one connection with one request at a time, and when each piece came.

It must not be slower than the server that it measures, and its process must start at once: it imports the standard
library and httptools alone.
"""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

import httptools

END_OF_EVENT = b"\n\n"
DATA = b"data:"
DONE = b"[DONE]"


@dataclass(slots=True)
class Answer:
    """What a server answered to one request, and when. Times are those of `time.monotonic`, in seconds.

    Args:
        status: the HTTP status; 0 if the connection ended before it came.
        pieces: (when it came, its characters) for each piece of text; a reply that is not streamed is one piece.
        finish_reason: why the reply ended, as the server says; "" if it did not say so.
        usage: the tokens that the server counted, as in OpenAI's interface.
        problem: why the request was not answered in full; "" if it was.
    """

    sent_s: float
    status: int = 0
    text: str = ""
    pieces: list[tuple[float, int]] = field(default_factory=list)
    finish_reason: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    ended_s: float = 0.0

    @property
    def num_tokens(self) -> int:
        """Tokens of the reply; 0 if the server did not say."""
        return int(self.usage.get("completion_tokens", 0))

    @property
    def num_prompt_tokens(self) -> int:
        return int(self.usage.get("prompt_tokens", 0))

    @property
    def num_cached(self) -> int:
        """Tokens of the prompt that the server had cached."""
        return int((self.usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)


class Client:
    """A user of a server, whose connection is opened when it is first needed, and again after it was closed.

    Args:
        key: the API key that is sent; "" for none.
    """

    def __init__(self, host: str, port: int, key: str = "") -> None:
        self._address = host, port
        self._head = f"Host: {host}:{port}\r\nContent-Type: application/json\r\n"
        self._head += f"Authorization: Bearer {key}\r\n" if key else ""
        self._connection: Connection | None = None

    @property
    def is_connected(self) -> bool:
        return self._connection is not None and self._connection.is_open

    async def ask(self, path: str, body: dict[str, Any] | bytes, *, most_pieces: int | None = None) -> Answer:
        """Send a request and wait for the whole answer.

        Args:
            body: an object to send as JSON, or the bytes of a body, whatever they are.
            most_pieces: go away after so many pieces of text, as a user does who closes the page.
        """
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\n{self._head}Content-Length: {len(sent)}\r\n\r\n"
        answer = Answer(time.monotonic())
        try:
            if self._connection is None or not self._connection.is_open:
                loop = asyncio.get_running_loop()
                _, self._connection = await loop.create_connection(Connection, *self._address)
            await self._connection.exchange(head.encode() + sent, answer, most_pieces)
        except OSError as error:
            answer.problem = f"{type(error).__name__}: {error}"
        answer.ended_s = time.monotonic()
        return answer

    def close(self) -> None:
        """Close the connection, whatever is still to come."""
        if self._connection is not None:
            self._connection.close()


class Connection(asyncio.Protocol):
    """One connection, which reads one answer after another."""

    def __init__(self) -> None:
        self.is_open = False
        self._done: asyncio.Future[None] | None = None

    async def exchange(self, request: bytes, answer: Answer, most_pieces: int | None) -> None:
        """Send a request and read its answer into `answer`."""
        self._answer, self._most_pieces = answer, most_pieces
        self._done = asyncio.get_running_loop().create_future()
        self._body = bytearray()
        self._is_stream = self._goes_on = False
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)
        await self._done

    def close(self) -> None:
        """Close it at once."""
        self.is_open = False
        self._transport.abort()

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self.is_open = transport, True

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            # What a callback raised is in its context.
            reason = error.__context__ or error
            self._end(f"the answer is damaged: {type(reason).__name__}: {reason}")
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        self._end(f"the connection was closed{f': {error}' if error else ''}")

    # What httptools calls

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self._is_stream = value.startswith(b"text/event-stream")

    def on_headers_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()
        self._goes_on = self._parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        self._body += data
        if not self._is_stream:
            return
        *events, rest = self._body.split(END_OF_EVENT)
        self._body = rest
        for event in events:
            for line in event.splitlines():
                if line.startswith(DATA):
                    self._read(bytes(line[len(DATA) :]).strip())

    def on_message_complete(self) -> None:
        if self._is_stream:
            problem = "" if self._answer.finish_reason else "the stream ended without a finish reason"
        else:
            problem = self._read_whole()
        self._end(problem if self._answer.status == 200 else problem or f"HTTP {self._answer.status}")
        if not self._goes_on:
            self.close()

    def _read(self, data: bytes) -> None:
        """Read one event of a stream."""
        if data == DONE:
            return
        event = json.loads(data)
        if "error" in event:
            self._end(f"an error event: {event['error']}")
            return
        self._answer.usage = event.get("usage") or self._answer.usage
        for choice in event["choices"]:
            self._add(choice.get("delta", choice), choice)

    def _add(self, message: dict[str, Any], choice: dict[str, Any]) -> None:
        answer, text = self._answer, message.get("content") or message.get("text") or ""
        if answer.problem:
            return
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
        if text:
            answer.text += text
            answer.pieces.append((time.monotonic(), len(text)))
            if len(answer.pieces) == self._most_pieces:
                self._end("cancelled")
                self.close()

    def _read_whole(self) -> str:
        """Read an answer that is not streamed, and return what is wrong with it, "" if nothing is."""
        try:
            content = json.loads(self._body)
        except ValueError:
            return f"HTTP {self._answer.status} with a body that is not JSON: {bytes(self._body[:80])!r}"
        if self._answer.status != 200:
            return f"HTTP {self._answer.status}: {content.get('error')}"
        self._answer.usage = content.get("usage") or {}
        for choice in content["choices"]:
            self._add(choice.get("message", choice), choice)
        return ""

    def _end(self, problem: str) -> None:
        """End the answer, unless it has ended already."""
        if self._done is not None and not self._done.done():
            self._answer.problem = problem
            self._done.set_result(None)
