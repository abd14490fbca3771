"""A server under broken requests: how it answers them, and whether whole streams beside them notice anything.

The tests send a hundred; this starts a server of its own and sends all:

    python tests/besieged.py --run runs/quickstart --requests 2000
"""

import argparse
import asyncio
import collections
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httptools
from prometheus_client.parser import text_string_to_metric_families

from broken_requests import ATTACKS, Attack, Server, line

# What a client of a busy server may be told: the queue is full, or there are too many connections.
BUSY = frozenset({429, 503})
# Conversations of the whole streams: one each.
SAID = (
    "hi there !", "do you have any pets ?", "what do you do for a living ?", "i love to cook . and you ?",
    "where are you from ?", "tell me about your dogs .", "it is raining here today .", "what is your favourite music ?",
)  # fmt: skip


@dataclass(slots=True)
class Answer:
    """An answer as it was received, whole or cut off."""

    status: int
    type: str
    body: bytes = b""
    is_whole: bool = False


@dataclass(slots=True)
class Outcome:
    """What the attacks led to.

    Args:
        answers: how often each attack was answered with each status; 0: not at all.
        faults: in words; none, if all is well.
        num_streams: whole streams that were compared meanwhile.
        alone: the replies that they must have: each conversation's when nobody else asks.
    """

    answers: collections.Counter[tuple[str, int]] = field(default_factory=collections.Counter)
    faults: list[str] = field(default_factory=list)
    num_streams: int = 0
    alone: list[str] = field(default_factory=list)


def attack(server: Server, num_requests: int, seed: int) -> Outcome:
    """Send broken requests, each kind equally often, while eight whole streams run all the time."""
    return asyncio.run(_attack(server, num_requests, seed))


async def _attack(server: Server, num_requests: int, seed: int) -> Outcome:
    outcome = Outcome()
    outcome.alone = [await _stream(server, text) for text in SAID]
    await asyncio.sleep(0.2)
    files = server.open_files()
    chance = random.Random(seed)
    kinds = [ATTACKS[number % len(ATTACKS)] for number in range(num_requests)]
    chance.shuffle(kinds)
    todo = collections.deque((kind, random.Random(chance.random())) for kind in kinds)
    is_over = asyncio.Event()
    streams = [
        asyncio.create_task(_keep_asking(server, text, alone, is_over, outcome))
        for text, alone in zip(SAID, outcome.alone, strict=True)
    ]
    async with asyncio.TaskGroup() as attackers:
        for _ in range(16):
            attackers.create_task(_keep_attacking(server, todo, outcome))
    is_over.set()
    await asyncio.gather(*streams)
    outcome.faults += await _left_behind(server, files)
    return outcome


async def _keep_attacking(
    server: Server, todo: collections.deque[tuple[Attack, random.Random]], outcome: Outcome
) -> None:
    while todo:
        kind, chance = todo.popleft()
        name = kind.__name__
        try:
            async with line(server) as connection:
                allowed = await kind(server, chance, connection)
                found = answers(connection.received)
        except (OSError, AssertionError) as error:
            outcome.faults.append(f"{name}: {type(error).__name__}: {error}")
            continue
        for answer in found:
            outcome.answers[name, answer.status] += 1
            if wrong := _fault(answer, allowed):
                outcome.faults.append(f"{name}: {wrong}")
        if not found:
            outcome.answers[name, 0] += 1
            if allowed is not None:
                outcome.faults.append(f"{name}: no answer")


def _fault(answer: Answer, allowed: frozenset[int] | None) -> str | None:
    if allowed is not None and answer.status not in allowed | BUSY:
        return f"status {answer.status} in place of {sorted(allowed)}: {answer.body[:300]!r}"
    if answer.status >= 500 and answer.status not in BUSY:
        return f"status {answer.status}: {answer.body[:300]!r}"
    if answer.status >= 400 and answer.is_whole and answer.body:
        try:
            error = json.loads(answer.body)["error"]
            is_right = set(error) == {"message", "type", "param", "code"} and bool(error["message"])
        except (ValueError, LookupError, TypeError):
            is_right = False
        if not is_right or answer.type != "application/json":
            return f"status {answer.status} without OpenAI's error: {answer.type} {answer.body[:300]!r}"
    return None


class _Reader:
    """Takes what the parser finds in the bytes of a connection."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, received: bytes) -> None:
        try:
            self._parser.feed_data(received)
        except httptools.HttpParserError as error:
            raise AssertionError(f"what came is no answer: {error}: {received[:300]!r}") from error

    # Called by the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self._type = value.decode("latin-1").partition(";")[0]

    def on_message_begin(self) -> None:
        self._type = ""

    def on_headers_complete(self) -> None:
        self.answers.append(Answer(self._parser.get_status_code(), self._type))

    def on_body(self, body: bytes) -> None:
        self.answers[-1].body += body

    def on_message_complete(self) -> None:
        self.answers[-1].is_whole = True


def answers(received: bytes) -> list[Answer]:
    """Read all answers that came on a connection.

    Raises:
        AssertionError: something else came.
    """
    reader = _Reader()
    reader.feed(received)
    # The interim answer "100 Continue" is none.
    return [answer for answer in reader.answers if answer.status != 100]


async def _keep_asking(server: Server, text: str, alone: str, is_over: asyncio.Event, outcome: Outcome) -> None:
    while not is_over.is_set():
        found = await _stream(server, text)
        outcome.num_streams += 1
        if found != alone:
            outcome.faults.append(f"a whole stream to {text!r} is {found!r} in place of {alone!r}")


async def _stream(server: Server, text: str) -> str:
    """Return the greedy reply to a text, received as a stream, and why it ended."""
    async with line(server) as connection:
        await connection.send(server.request(server.body(text, stream=True, max_tokens=24), more="Connection: close"))
        (answer,) = answers(await connection.read())
    if answer.status != 200 or not answer.is_whole or not answer.body.endswith(b"data: [DONE]\n\n"):
        return f"status {answer.status}, {'whole' if answer.is_whole else 'cut off'}: {answer.body[-300:]!r}"
    events = [json.loads(event.removeprefix(b"data: ")) for event in answer.body.split(b"\n\n")[:-2]]
    choices = [event["choices"][0] for event in events]
    return "".join(choice["delta"].get("content", "") for choice in choices) + f"<{choices[-1]['finish_reason']}>"


async def _left_behind(server: Server, files: int) -> list[str]:
    """Say what is still occupied some seconds after the last client has gone."""
    end, figures, now = time.monotonic() + 5, {}, -1
    while time.monotonic() < end:
        figures, now = await _figures(server), server.open_files()
        if figures["falconer_running"] == figures["falconer_queued"] == 0 and now <= files:
            return []
        await asyncio.sleep(0.2)
    return [f"5 seconds later: {figures}, {now} open files in place of {files}"]


async def _figures(server: Server) -> dict[str, float]:
    async with line(server) as connection:
        await connection.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        (answer,) = answers(await connection.read())
    families = text_string_to_metric_families(answer.body.decode())
    found = {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}
    # The connection that asks is still open.
    return {name: found[name] for name in ("falconer_running", "falconer_queued")}


# As a program


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with _serving(asked.run) as (server, process, log):
        started = time.monotonic()
        outcome = attack(server, asked.requests, asked.seed)
        took = f"{time.monotonic() - started:.0f} s"
        print(f"{asked.requests} requests in {took}, {outcome.num_streams} whole streams beside them", flush=True)
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            outcome.faults.append("the server has not ended 30 seconds after SIGTERM, though all clients were gone")
        lines = log.read_text().splitlines()
        outcome.faults += [line for line in lines if "failed" in line or "Traceback" in line]
    for name in sorted({name for name, _ in outcome.answers}):
        found = {status: number for (of, status), number in sorted(outcome.answers.items()) if of == name}
        print(f"{name:34}" + ", ".join(f"{status or 'none'}: {number}" for status, number in found.items()))
    for fault, number in collections.Counter(outcome.faults).most_common():
        print(f"FAULT ({number} times): {fault}")
    sys.exit(bool(outcome.faults))


@contextlib.contextmanager
def _serving(run: Path) -> Iterator[tuple[Server, subprocess.Popen[bytes], Path]]:
    """Serve a run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        environment = {name: value for name, value in os.environ.items() if name != "FALCONER_API_KEY"}
        with log.open("w") as out:
            process = subprocess.Popen(
                # In bf16 two tokens may be equally likely; which of them is said then depends on the batch.
                [sys.executable, "-m", "falconer", "serve", "--run", str(run), "--port", "0", "--receive-time", "8",
                 "model.dtype=fp32"],
                stdout=out, stderr=out, env=environment | {"PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        try:
            yield Server("127.0.0.1", _port(process, log), process.pid, run.resolve().name, quick=False), process, log
        finally:
            process.kill()
            process.wait()


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    while process.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text()):
            return int(found.group(1))
        time.sleep(0.2)
    raise SystemExit(log.read_text())


if __name__ == "__main__":
    main()
