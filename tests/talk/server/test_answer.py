"""Answers: departures free their places, and errors and time limits end them with a word, never with silence."""

import json
import socket

from falconer.errors import FalconerError
from served import CHAT, CHATS, Running, encoder_of, parrot_of, serving, wait_until


def connected(server: Running, **fields) -> socket.socket:
    """Send a chat and leave the answer unread."""
    body = json.dumps({**CHAT, **fields}).encode()
    headers = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    head = f"POST {CHATS} HTTP/1.1\r\n{headers}\r\n\r\n"
    opened = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    opened.sendall(head.encode() + body)
    return opened


def endless(**given):
    encoder = encoder_of()
    parrot = parrot_of(encoder, **given)
    parrot.says.pop()  # it never ends by itself
    return serving(parrot, encoder)


def test_a_client_that_goes_away_frees_its_place_and_those_of_all_choices():
    with endless(delay_s=0.02, num_slots=2) as server:
        for is_stream in (True, False):
            opened = connected(server, stream=is_stream, n=2, max_tokens=256)
            wait_until(lambda: server.parrot.num_running == 2)
            if is_stream:
                assert opened.recv(1000).startswith(b"HTTP/1.1 200")
            opened.close()
            wait_until(lambda: server.parrot.num_running == 0, seconds=2)
        # Those that waited leave the queue.
        first, second = connected(server, n=2, max_tokens=256), connected(server, max_tokens=256)
        wait_until(lambda: server.service.worker.figures.num_queued == 1)
        second.close()
        wait_until(lambda: server.service.worker.figures.num_queued == 0, seconds=2)
        first.close()
        wait_until(lambda: server.parrot.num_running == 0, seconds=2)
        figures = server.service.metrics.text().decode()
        assert 'route="/v1/chat/completions",status="499"} 4.0' in figures


def test_a_full_queue_is_refused_and_leaves_no_choice_behind():
    encoder = encoder_of()
    with serving(parrot_of(encoder, delay_s=0.05, num_slots=1), encoder, max_queued=1) as server:
        opened = connected(server, max_tokens=256)
        wait_until(lambda: server.parrot.num_running == 1)
        got = server.chat(n=2)
        assert got.status == 429 and got.error["code"] == "queue_full" and int(got.headers["retry-after"]) > 0
        wait_until(lambda: server.service.worker.figures.num_queued == 0)
        opened.close()
        server.parrot.delay_s = 0
        wait_until(lambda: server.parrot.num_running == 0)
        assert server.chat().status == 200


def test_a_request_that_takes_too_long_is_ended():
    encoder = encoder_of()
    with serving(parrot_of(encoder, delay_s=0.1, num_slots=1), encoder, request_s=1) as server:
        got = server.chat()
        assert got.status == 504 and got.error["code"] == "timeout" and "after 1 seconds" in got.error["message"]
        events = server.chat(stream=True).events
        assert events[0]["choices"] and events[-1]["error"]["code"] == "timeout", "the last event says why"
        wait_until(lambda: server.parrot.num_running == 0, seconds=2)


def test_an_error_of_the_engine_is_told():
    with serving() as server:
        server.parrot.fails = FalconerError("There is not enough memory.", "Use fewer slots.")
        for is_stream in (False, True):
            got = server.chat(stream=is_stream)
            assert got.status == 503 and got.error["message"] == "There is not enough memory. Use fewer slots."
        server.parrot.fails = None
        assert server.chat().status == 200, "the server goes on"


def test_an_error_in_the_middle_of_a_stream_is_its_last_event():
    with endless(delay_s=0.02) as server:
        opened = connected(server, stream=True, max_tokens=256)
        assert opened.recv(1000).startswith(b"HTTP/1.1 200")
        server.parrot.fails = FalconerError("There is not enough memory.")
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += opened.recv(10_000)
        opened.close()
        assert b'{"error": {"message": "There is not enough memory.", "type": "server_error"' in received
        assert b"[DONE]" not in received


def test_an_engine_that_is_broken_is_told_by_all_routes(caplog):
    with serving() as server:
        server.parrot.fails = ValueError("a bug")
        assert server.chat().error["code"] == "engine_failed"
        wait_until(lambda: server.service.worker.figures.is_broken)
        got = server.chat()
        assert got.status == 503 and "must be started again" in got.error["message"]
        assert server.ask("GET", "/health").status == 503
    assert "a bug" in caplog.text
