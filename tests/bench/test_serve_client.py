"""Does the client for load tests read every answer, however its bytes arrive, and say what is wrong with a bad one?"""

import asyncio
import contextlib
import json
import socket
import threading

import pytest

from falconer.bench.serve_ceiling import chunk
from falconer.bench.serve_client import Answer, Client

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
USAGE = {"prompt_tokens": 40, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 25}}


def event(content: str | None = None, finish_reason: str | None = None) -> bytes:
    delta = {"role": "assistant", "content": ""} if content is None else {"content": content}
    return chunk(json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}).encode())


def usage() -> bytes:
    return chunk(json.dumps({"choices": [], "usage": USAGE}).encode())


def whole(status: str, content: object) -> bytes:
    body = json.dumps(content).encode()
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


GOOD = HEAD + event() + event("I am") + event(" fine – thanks") + event("", "stop") + usage() + chunk(b"[DONE]") + END


class Scripted(threading.Thread):
    """A server that reads a request for each of its answers, and sends it in parts of `size` bytes."""

    def __init__(self, answers: list[bytes], size: int, closes: bool) -> None:
        super().__init__(daemon=True)
        self.answers, self.size, self.closes = answers, size, closes
        self.bodies: list[bytes] = []
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]

    def run(self) -> None:
        with self.listening:
            while len(self.bodies) < len(self.answers):
                connection, _ = self.listening.accept()
                with connection, contextlib.suppress(ConnectionError):
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self.talk(connection)

    def talk(self, connection: socket.socket) -> None:
        while len(self.bodies) < len(self.answers):
            head, read = b"", connection.makefile("rb")
            while line := read.readline().strip():
                head += line if line.startswith(b"Content-Length:") else b""
            if not head:
                return
            self.bodies.append(read.read(int(head.split(b":")[1])))
            answer = self.answers[len(self.bodies) - 1]
            for start in range(0, len(answer), self.size):
                connection.sendall(answer[start : start + self.size])
            if self.closes:
                return


def ask(
    answers: list[bytes], size: int = 10_000, most_pieces: int | None = None, closes: bool = False
) -> tuple[list[Answer], list[bytes]]:
    """Ask a server that has these answers; return what came, and the requests' bodies."""
    server = Scripted(answers, size, closes)
    server.start()

    async def client() -> list[Answer]:
        one = Client("127.0.0.1", server.port)
        found = []
        for _ in answers:
            found.append(await one.ask("/v1/chat/completions", {"n": 1}, most_pieces=most_pieces))
            while closes and one.is_connected:
                await asyncio.sleep(0.001)
        one.close()
        # The transport closes its socket in the next turn of the loop.
        await asyncio.sleep(0)
        return found

    found = asyncio.run(client())
    server.join()
    return found, server.bodies


@pytest.mark.parametrize("size", [10_000, 37, 1])
def test_a_stream_is_read_however_its_bytes_arrive(size: int) -> None:
    (first, second), bodies = ask([GOOD, GOOD], size)
    assert bodies == [b'{"n": 1}'] * 2
    for answer in (first, second):
        assert answer.problem == "" and answer.status == 200
        assert answer.text == "I am fine – thanks" and [length for _, length in answer.pieces] == [4, 14]
        assert answer.finish_reason == "stop"
        assert (answer.num_prompt_tokens, answer.num_tokens, answer.num_cached) == (40, 3, 25)
        assert answer.sent_s < answer.pieces[0][0] <= answer.pieces[1][0] <= answer.ended_s
    assert second.sent_s >= first.ended_s


def test_an_answer_that_is_not_streamed_is_one_piece() -> None:
    content = {"choices": [{"message": {"content": "Hello"}, "finish_reason": "length"}], "usage": USAGE}
    (answer,), _ = ask([whole("200 OK", content)])
    assert (answer.problem, answer.text, answer.finish_reason) == ("", "Hello", "length")
    assert len(answer.pieces) == 1 and answer.num_tokens == 3


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (whole("429 Too Many Requests", {"error": {"message": "busy"}}), "HTTP 429: {'message': 'busy'}"),
        (whole("503 Service Unavailable", "no"), "the answer is damaged: AttributeError"),
        (HEAD + event("I am") + END, "the stream ended without a finish reason"),
        (HEAD + event("I am"), "the connection was closed"),
        (b"", "the connection was closed"),
        (HEAD + event("I") + chunk(b'{"error": {"message": "broken"}}') + END, "an error event: {'message': 'broken'}"),
        (b"SSH-2.0\r\n\r\n", "the answer is damaged: HttpParserError: Expected HTTP/"),
        (HEAD + chunk(b"no JSON") + END, "the answer is damaged: JSONDecodeError"),
    ],
)  # fmt: skip
def test_what_is_not_answered_in_full_is_a_problem(sent: bytes, problem: str) -> None:
    (answer, after), _ = ask([sent, GOOD], closes=True)
    assert answer.problem.startswith(problem)
    # The same client goes on, on a new connection.
    assert (after.problem, after.text) == ("", "I am fine – thanks")


def test_a_client_may_go_away_in_the_middle() -> None:
    (answer, after), _ = ask([GOOD, GOOD], 1, most_pieces=1)
    assert (answer.problem, answer.text) == ("cancelled", "I am")
    assert (after.problem, after.text) == ("cancelled", "I am")


def test_a_server_that_is_not_there_is_a_problem() -> None:
    answer = asyncio.run(Client("127.0.0.1", 1).ask("/v1/models", b""))
    assert answer.problem.startswith("ConnectionRefusedError") and answer.status == 0
