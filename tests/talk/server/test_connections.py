"""Connections: slow, half, huge and odd requests are cut off in time, while others are served."""

import json
import socket
import time
from contextlib import ExitStack, suppress
from http.client import HTTPResponse

import pytest

from served import CHAT, CHATS, encoder_of, parrot_of, serving, wait_until

BODY = json.dumps(CHAT).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GOOD = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


@pytest.fixture(scope="module")
def hasty():
    with serving(receive_s=0.4, idle_s=0.4, max_connections=12) as running:
        yield running


def opened(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def read_all(connection):
    received = b""
    while part := connection.recv(65_536):
        received += part
    return received


HALF = [
    b"",
    b"POST",
    HEAD,
    HEAD + b"X-Slow: ",
    HEAD + b"Content-Length: 500\r\n\r\n{",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
]


@pytest.mark.parametrize("sent", HALF)
def test_half_a_request_is_cut_off_while_others_are_served(hasty, sent):
    with opened(hasty) as connection:
        started = time.monotonic()
        connection.sendall(sent)
        assert hasty.chat().status == 200
        received = read_all(connection)
        assert 0.2 < time.monotonic() - started < 3
        assert b"HTTP/1.1 408 Request Timeout" in received and b"was not received within 0.4 seconds" in received


def test_a_slow_sender_is_cut_off_though_it_sends(hasty):
    with opened(hasty) as connection, pytest.raises(OSError):
        for byte in GOOD * 3:
            connection.sendall(bytes([byte]))
            time.sleep(0.02)


def test_a_body_without_end_is_cut_off_after_its_answer(hasty):
    with opened(hasty) as connection:
        connection.sendall(HEAD + b"Content-Length: 99999999\r\n\r\n")
        received = b""
        started = time.monotonic()
        try:
            while time.monotonic() - started < 5:
                connection.sendall(b" " * 1000)
                time.sleep(0.01)
        except OSError:
            pass
        assert time.monotonic() - started < 3
        try:
            received = connection.recv(65_536)
        except OSError:
            received = b"413"
        assert b"413" in received


def test_an_idle_connection_is_closed_and_a_busy_one_kept(hasty):
    with opened(hasty) as connection:
        for _ in range(3):
            connection.sendall(GOOD)
            answer = HTTPResponse(connection)
            answer.begin()
            assert answer.status == 200 and answer.read()
            time.sleep(0.1)
        assert read_all(connection) == b"", "closed without a word"


def test_requests_in_a_row_are_answered_in_order(hasty):
    with opened(hasty) as connection:
        connection.sendall(GOOD + b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        received = read_all(connection)
        assert received.count(b"HTTP/1.1 200 OK") == 2 and received.endswith(b'{"status":"ok"}')


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"\0" * 100,
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_http_is_refused(hasty, sent):
    with opened(hasty) as connection:
        connection.sendall(sent)
        received = read_all(connection)
    assert received.startswith(b"HTTP/1.1 400 Bad Request") and b'"code": "invalid_http"' in received


def test_headers_without_end_are_refused(hasty):
    with opened(hasty) as connection:
        try:
            for _ in range(100):
                connection.sendall(b"POST / HTTP/1.1\r\n" if _ == 0 else b"X-A: " + b"a" * 2000 + b"\r\n")
        except OSError:
            pass
        with suppress(ConnectionResetError):
            assert b"431" in connection.recv(65_536)
    assert hasty.chat().status == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 40_000), HEAD + b"X: %s\r\n\r\n" % (b"x" * 200_000),
        HEAD + b"X: y\r\n" * 20_000 + b"\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;" + b"e" * 100_000,
    ],
)  # fmt: skip
def test_a_large_head_is_refused_though_it_comes_at_once(hasty, sent):
    with opened(hasty) as connection:
        connection.sendall(sent)
        assert read_all(connection).startswith(b"HTTP/1.1 431 ")


def test_a_body_in_chunks_of_a_byte_is_a_body(hasty):
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY + b" " * 20_000) + b"0\r\n\r\n"
    with opened(hasty) as connection:
        connection.sendall(HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")


def test_a_refusal_arrives_though_much_is_unread(hasty):
    with opened(hasty) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + b"x" * 500_000)
        assert read_all(connection).startswith(b"HTTP/1.1 400 ")


def test_requests_in_a_row_are_given_up_with_their_client():
    encoder = encoder_of()
    parrot = parrot_of(encoder, delay_s=0.02)
    parrot.says.pop()
    with serving(parrot, encoder) as server:
        body = json.dumps({**CHAT, "max_tokens": 256}).encode()
        request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
        with opened(server) as connection:
            connection.sendall(request * 3)
            wait_until(lambda: parrot.num_running == 1)
        wait_until(lambda: parrot.num_running == 0, seconds=2)
        assert len(parrot.asked) == 1


def test_the_number_of_connections_is_bounded(hasty):
    wait_until(lambda: not hasty.server.server_state.connections)
    with ExitStack() as stack:
        many = [stack.enter_context(opened(hasty)) for _ in range(12)]
        wait_until(lambda: len(hasty.server.server_state.connections) == 12)
        with opened(hasty) as connection:
            received = read_all(connection)
        assert b"503 Service Unavailable" in received and b"too_many_connections" in received
        many[0].sendall(GOOD)
        assert many[0].recv(65_536).startswith(b"HTTP/1.1 200"), "those that were there first are served"
    wait_until(lambda: not hasty.server.server_state.connections)
    assert hasty.chat().status == 200


def test_a_client_that_never_reads_is_cut_off():
    encoder = encoder_of()
    parrot = parrot_of(encoder)
    parrot.says.pop()
    with serving(parrot, encoder, request_s=0.5, send_buffer=4096) as server:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            body = json.dumps({**CHAT, "stream": True, "n": 8, "max_tokens": 256, "top_logprobs": 20}).encode()
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            wait_until(lambda: server.parrot.num_running > 0)
            wait_until(lambda: not server.server.server_state.connections, seconds=10)
        assert server.parrot.num_running == 0
        assert server.ask("POST", CHATS, {**CHAT, "max_tokens": 3}).status == 200
