"""A server for tests: real sockets, routes and worker thread, upon a batch that says what it is told to."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from falconer.data.encode import Encoder
from falconer.data.prompt import PromptFormat
from falconer.model.engine import Decoding, Said, Writing
from falconer.model.tokenizer import load_tokenizer
from falconer.talk.server.app import make_app
from falconer.talk.server.gate import Access, Gate
from falconer.talk.server.limits import Limits
from falconer.talk.server.metrics import Metrics
from falconer.talk.server.service import ServedModel, Service
from falconer.talk.server.serving import LOCAL_NAMES, Server, bind
from falconer.talk.server.worker import AnyWorker, Worker
from falconer.talk.text import Writer

SAYS = "i like long walks on the beach with my two dogs . how are you ?"
SHOWN = "I like long walks on the beach with my two dogs. How are you?"
CHAT = {"model": "tuned", "messages": [{"role": "user", "content": "Hi!"}]}
CHATS, TEXTS = "/v1/chat/completions", "/v1/completions"
JSON = {"Content-Type": "application/json"}


def encoder_of(max_tokens: int = 512, *, is_spaced: bool = True) -> Encoder:
    tokenizer, end_id = load_tokenizer("falcon-mini")
    format = PromptFormat(is_spaced=is_spaced)
    return Encoder(tokenizer.backend_tokenizer.to_str(), end_id, max_tokens, format)


@dataclass
class Parrot:
    """Stands in for a running batch: each reply is the same text, a token a step.

    Args:
        fails: what a step raises.
    """

    says: list[int]
    num_slots: int = 4
    delay_s: float = 0.0
    fails: Exception | None = None
    asked: list[Any] = field(default_factory=list)
    writings: list[Writing] = field(default_factory=list)
    news: list[tuple[Writing, Said]] = field(default_factory=list)

    @property
    def num_running(self) -> int:
        return len(self.writings)

    def join(self, asked: Any) -> list[Writing]:
        joined = [Writing(joining, [], num_cached=len(joining.request.prompt) // 2) for joining in asked]
        self.asked += asked
        self.writings += joined
        for writing in joined:
            self._say(writing)
        return joined

    def step(self) -> list[tuple[Writing, Said]]:
        time.sleep(self.delay_s)
        if self.fails:
            raise self.fails
        for writing in list(self.writings):
            self._say(writing)
        news, self.news = self.news, []
        return news

    def leave(self, writing: Writing) -> None:
        if writing in self.writings:
            self.writings.remove(writing)

    def _say(self, writing: Writing) -> None:
        token = self.says[len(writing.said) % len(self.says)]
        num = writing.request.decoding.num_logprobs
        top = tuple((token + place, -0.5 - place) for place in range(num or 0))
        said = Said(token) if num is None else Said(token, -0.5, top)
        writing.said.append(said)
        self.news.append((writing, said))
        decoding = writing.request.decoding
        if len(writing.said) == decoding.max_new_tokens or token in (decoding.stops or ()):
            writing.is_done = True
            self.leave(writing)


def parrot_of(encoder: Encoder, says: str = SAYS, **given: Any) -> Parrot:
    return Parrot([*encoder.encode_text(f" {says}"), encoder.end_id], **given)


def service_of(parrot: Parrot, encoder: Encoder, *, max_queued: int = 64, **limits: Any) -> Service:
    return _service(Worker(parrot, max_queued=max_queued), encoder, Metrics(), limits)  # type: ignore[arg-type]


def _service(worker: AnyWorker, encoder: Encoder, metrics: Metrics, limits: dict[str, Any]) -> Service:
    models = {
        "tuned": ServedModel("tuned", "adapter0", Writer(encoder)),
        "falcon-mini": ServedModel("falcon-mini", None, Writer(encoder)),
    }
    default = Decoding(max_new_tokens=64, temperature=0.7)
    own = Limits(**{"max_tokens": 256, **limits})
    return Service(worker, models, default, own, metrics, 1_700_000_000, ThreadPoolExecutor(1))


def app_of(worker: AnyWorker, encoder: Encoder, is_stopping: Callable[[], bool], metrics: Path) -> Gate:
    """Return the application of one of several processes."""
    return make_app(_service(worker, encoder, Metrics(metrics), {}), Access(), is_stopping=is_stopping)


def request(port: int, **fields: Any) -> "Got":
    """Ask for a chat on a connection of its own."""
    return _ask(port, "POST", CHATS, {**CHAT, **fields})


def _ask(port: int, method: str, path: str, body: Any, headers: dict[str, str] | None = None) -> "Got":
    sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    kind = JSON if body is not None else {}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, sent, {**kind, **(headers or {})})
        answer = connection.getresponse()
        return Got(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


@dataclass
class Running:
    """A server that runs in a thread of this process."""

    port: int
    server: Server
    service: Service
    parrot: Parrot

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> "Got":
        """Ask on a connection of its own; `body` is bytes, or sent as JSON."""
        return _ask(self.port, method, path, body, headers)

    def chat(self, **fields: Any) -> "Got":
        return self.ask("POST", CHATS, {**CHAT, **fields})


@dataclass
class Got:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        """OpenAI's error body, checked for its form."""
        assert set(self.json) == {"error"} and set(self.json["error"]) == {"message", "type", "param", "code"}
        assert self.headers["content-type"] == "application/json"
        return self.json["error"]

    @property
    def events(self) -> list[Any]:
        """The events of a stream; "[DONE]" as it is."""
        lines = [line for line in self.body.decode().split("\n\n") if line]
        assert all(line.startswith("data: ") for line in lines)
        return [data if data == "[DONE]" else json.loads(data) for data in (line[6:] for line in lines)]


@contextmanager
def serving(
    parrot: Parrot | None = None, encoder: Encoder | None = None, *, key: str | None = None,
    origins: tuple[str, ...] = (), grace_s: float = 5, max_queued: int = 64, on_answer: Any = None,
    send_buffer: int = 0, **limits: Any,
) -> Iterator[Running]:  # fmt: skip
    """Serve in a thread until the block ends.

    Args:
        send_buffer: bytes that the system takes for a client that does not read; 0: as many as it likes.
    """
    encoder = encoder or encoder_of()
    parrot = parrot or parrot_of(encoder)
    service = service_of(parrot, encoder, max_queued=max_queued, **limits)
    access = Access(key, LOCAL_NAMES, frozenset(origins))
    started = threading.Event()
    app = make_app(service, access, is_stopping=lambda: server.is_stopping, on_answer=on_answer)
    server = Server(app, service.worker, service.limits, grace_s=grace_s, on_start=started.set)
    bound = bind("127.0.0.1", 0)
    if send_buffer:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    port = bound.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        assert started.wait(30)
        yield Running(port, server, service, parrot)
    finally:
        parrot.delay_s = 0
        server.stop()
        thread.join(30)
        service.texts.shutdown()
        assert not thread.is_alive()


def wait_until(holds: Any, seconds: float = 10) -> None:
    """Wait until something holds; fail if it takes too long."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)
