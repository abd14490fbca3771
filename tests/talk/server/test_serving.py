"""Starting and stopping: what runs is finished, new requests are refused, and a second signal ends at once."""

import socket
import threading

import pytest

from falconer.errors import FalconerError
from falconer.talk.server.serving import bind, check_key, is_loopback
from served import encoder_of, parrot_of, serving, wait_until


def test_a_stop_finishes_what_runs_and_refuses_what_is_new():
    encoder = encoder_of()
    with serving(parrot_of(encoder, delay_s=0.05, num_slots=1), encoder) as server:
        found = []
        threads = [
            threading.Thread(target=lambda is_stream=is_stream: found.append(server.chat(stream=is_stream)))
            for is_stream in (True, False)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: server.parrot.num_running == 1 and server.service.worker.figures.num_queued == 1)
        server.server.stop()
        wait_until(lambda: server.ask("GET", "/health").status == 503)
        got = server.chat()
        assert got.status == 503 and got.error["code"] == "stopping" and "retry-after" in got.headers
        for thread in threads:
            thread.join(20)
        assert [one.status for one in found] == [200, 200], "those that ran and those that waited"
        wait_until(lambda: not _listens(server.port))


def test_after_its_grace_a_stop_ends_what_runs_with_a_word():
    encoder = encoder_of()
    parrot = parrot_of(encoder, delay_s=0.05)
    parrot.says.pop()
    with serving(parrot, encoder, grace_s=0.3) as server:
        found = []
        thread = threading.Thread(target=lambda: found.append(server.chat(stream=True, max_tokens=256)))
        thread.start()
        wait_until(lambda: server.parrot.num_running == 1)
        server.server.stop()
        thread.join(20)
        assert found[0].status == 200 and found[0].events[-1]["error"]["code"] == "stopping"


def _listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def test_a_port_in_use_is_an_error_with_a_way_out():
    with bind("127.0.0.1", 0) as bound:
        bound.listen()
        port = bound.getsockname()[1]
        with pytest.raises(FalconerError, match=f"Port {port} of 127.0.0.1 is in use. .*--port"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid", "a" * 70, "\ud800", ""])
def test_an_address_of_another_machine_is_an_error(host):
    with pytest.raises(FalconerError, match="is no address of this machine"):
        bind(host, 0)


def test_localhost_is_bound_for_ipv4():
    with bind("localhost", 0) as bound:
        assert bound.family == socket.AF_INET


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("LOCALHOST", True), ("0.0.0.0", False), ("::", False),
        ("", False), ("10.0.0.1", False), ("example.org", False),
    ],
)  # fmt: skip
def test_which_hosts_only_this_machine_reaches(host, expected):
    assert is_loopback(host) == expected


def test_other_machines_need_a_key():
    check_key(None, "127.0.0.1")
    check_key("abc", "0.0.0.0")
    with pytest.raises(FalconerError, match="FALCONER_API_KEY is not set. Type: export"):
        check_key(None, "0.0.0.0")
    for key in ("", "a b", "a\n", "\u00e9"):
        with pytest.raises(FalconerError, match="empty or has spaces"):
            check_key(key, "127.0.0.1")
