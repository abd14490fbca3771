"""`falconer serve` as users start and stop it: in a process of its own, by signals."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from http.client import HTTPConnection
from types import SimpleNamespace

import pytest
import torch

from command_line import falconer
from falconer.errors import FalconerError
from falconer.serve_command import _hosts, _num_http_processes, _origins
from served import CHATS, JSON, wait_until
from small_runs import Small, command


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    Small(folder).run(folder / "mine", "train.max_steps=1")
    return folder / "mine"


@pytest.fixture(params=[1, 2])
def started(run, request):
    """A server in one process, or with two more for HTTP; what it has printed, and its port."""
    number = request.param
    process = command([
        "serve", "--run", str(run), "--port", "0", "--adapter", f"again={run}", "--request-time", "60",
        "--http-processes", str(number),
    ])  # fmt: skip
    lines = []
    for line in process.stderr:
        lines.append(line.rstrip("\n"))
        if "Ctrl-C finishes" in line:
            break
    text = "\n".join(lines)
    found = re.search(r"page +http://127.0.0.1:(\d+)/", text)
    assert found, text + (process.stderr.read() if process.poll() is not None else "")
    yield SimpleNamespace(process=process, text=text, port=int(found[1]), number=number)
    process.kill()
    process.wait(30)
    process.stdout.close()
    process.stderr.close()


@pytest.mark.parametrize(
    ("device", "cores", "number"), [("cpu", 64, 1), ("cuda", 3, 1), ("cuda", 8, 2), ("cuda", 64, 4)]
)
def test_a_gpu_has_use_for_http_processes_if_there_are_cores(monkeypatch, device, cores, number):
    monkeypatch.setattr("falconer.runtime.pick_device", lambda _: torch.device(device))
    monkeypatch.setattr("falconer.runtime.num_cores", lambda: cores)
    assert _num_http_processes() == number


def chat(port, **fields):
    body = {"model": "mine", "messages": [{"role": "user", "content": "Hi!"}], "temperature": 0, **fields}
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", CHATS, json.dumps(body), JSON)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def answer(port, path):
    """Return the text of an answer, on a connection of its own."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def test_it_says_what_it_serves_answers_and_stops_with_0(started):
    for says in (
        "mine, again, falcon (base)",
        "/v1 (chat",
        "this machine alone",
        "precision fp32",
        "64 replies",
        "GiB of",
    ):
        assert says in started.text, started.text
    for model in ("mine", "again", "falcon"):
        status, body = chat(started.port, model=model, max_tokens=8)
        assert status == 200 and json.loads(body)["model"] == model
    connection = HTTPConnection("127.0.0.1", started.port, timeout=60)
    connection.request("GET", "/")
    page = connection.getresponse()
    assert page.status == 200 and page.getheader("content-security-policy").startswith("default-src 'none'")
    assert b"<title>" in page.read()
    connection.request("GET", "/page/data/settings")
    names = [field["name"] for field in json.load(connection.getresponse())["decoding"]]
    assert set(names) == {
        "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "no_repeat_ngram_size", "max_tokens", "seed",
    }  # fmt: skip
    connection.close()
    assert ("in 2 processes of their own" in started.text) == (started.number == 2)
    # Whichever process is asked, it has the figures of all.
    for _ in range(8):
        figures = answer(started.port, "/metrics")
        counted = re.findall(r'^falconer_completion_tokens_total\{model="(\w+)"\} (\S+)', figures, re.MULTILINE)
        assert {model for model, tokens in counted if 0 < float(tokens) <= 8} == {"mine", "again", "falcon"}
        assert "falconer_slots 64.0" in figures and "_created" not in figures
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(chat(started.port, max_tokens=100, n=8))) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    started.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(60)
    assert started.process.wait(60) == 0
    assert len(found) == 12 and {status for status, _ in found} <= {200, 503}, "each is answered or refused"
    assert started.process.stdout.read() == "" and started.process.stderr.read() == "", "nothing of a request"


def test_a_second_signal_ends_at_once(started):
    connection = socket.create_connection(("127.0.0.1", started.port), timeout=30)
    body = json.dumps({"model": "mine", "prompt": "a", "max_tokens": 256, "n": 8, "logit_bias": {}}).encode()
    connection.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    time.sleep(0.1)
    os.kill(started.process.pid, signal.SIGSTOP)
    # Both wait until the process goes on, so it obeys the second one while it stops.
    started.process.send_signal(signal.SIGINT)
    started.process.send_signal(signal.SIGTERM)
    os.kill(started.process.pid, signal.SIGCONT)
    assert started.process.wait(20) in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    connection.close()
    wait_until(lambda: not _listens(started.port), 20)


@pytest.mark.parametrize("started", [2], indirect=True)
def test_a_server_that_loses_a_process_says_so_and_ends(started):
    lost = int(
        subprocess.run(
            ["pgrep", "-P", str(started.process.pid), "-f", "spawn_main"], capture_output=True, check=True
        ).stdout.split()[0]
    )
    os.kill(lost, signal.SIGKILL)
    assert started.process.wait(60) == 2
    assert (
        "One of the server's HTTP processes ended by itself. Start the server again." in started.process.stderr.read()
    )
    wait_until(lambda: not _listens(started.port), 20)


def _listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", "0.0.0.0"], "an API key is required, and FALCONER_API_KEY is not set. Type: export"),
        (["--allow-origin", "*"], "is not the address of a site"),
        (["--adapter", "again"], "is not NAME=FOLDER"),
        (["--adapter", "again=/nowhere"], "contains neither a run nor an adapter"),
        (["--host", "203.0.113.9"], "an API key is required"),
        (["--run-adapter", "other"], "has no folder 'other'"),
        (["train.epochs=3"], "A chat can't change train.epochs"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_loaded(run, monkeypatch, options, says):
    monkeypatch.delenv("FALCONER_API_KEY", raising=False)
    monkeypatch.setattr("falconer.served.load_model", lambda *_, **__: pytest.fail("loaded"))
    result = falconer("serve", "--run", run, *options)
    assert result.code == 2 and says in result.err and result.err.count("\n") == 1


def test_a_port_in_use_is_said_before_the_model_is_loaded(run, monkeypatch):
    monkeypatch.setattr("falconer.served.load_model", lambda *_, **__: pytest.fail("loaded"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = falconer("serve", "--run", run, "--port", str(port))
    assert result.code == 2 and f"Port {port} of 127.0.0.1 is in use." in result.err and "--port" in result.err


def test_which_names_are_answered():
    assert _hosts("127.0.0.1", []) >= {"localhost", "127.0.0.1", "[::1]"}
    assert _hosts("0.0.0.0", []) is None
    assert "chat.example.org" in _hosts("127.0.0.1", ["Chat.example.org"])


@pytest.mark.parametrize("url", ["example.org", "https://", "https://a.org/", "ftp://a.org", "null", "https://a.org/b"])
def test_an_origin_is_scheme_and_host(url):
    assert _origins(["https://a.org", "http://localhost:3000"]) == {"https://a.org", "http://localhost:3000"}
    with pytest.raises(FalconerError, match="Give scheme and host"):
        _origins([url])
