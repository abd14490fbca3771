"""The server over a long time: its memory under mixed load, and what becomes of requests when it is stopped.

    python benchmarks/serve_soak.py memory --run runs/quickstart --minutes 30 --out memory.json
    python benchmarks/serve_soak.py restarts --run runs/quickstart --times 100 --out restarts.json

`memory`: 16 streams of conversations, short and long, beside clients that go away in the middle of a reply and others
that send what must be refused. The resident memory of the server is sampled every 10 seconds, and with a GPU its
memory, too. The medians of the thirds of the time tell whether it grows.

`restarts`: SIGTERM while 16 streams run, again and again. Each request must be answered in full, or be refused: HTTP
503, or a connection that was not accepted. One that was accepted and then neither answered nor refused is lost.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from falconer.bench.result import shown_command
from falconer.bench.serve import reply_options, talks_of
from falconer.bench.serve_client import Answer, Client
from falconer.bench.serve_load import CHAT, EMPTY, Talk, messages_of
from falconer.data.sources import load_dialogues
from falconer.files.replace import replace_file

HOST = "127.0.0.1"
NUM_STREAMS, NUM_LEAVING, NUM_WRONG = 16, 4, 2
SAMPLE_S = 10.0
START_S = 600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory", "restarts"))
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    talks = talks_of(load_dialogues("persona-chat-sample", split="test").dialogues)
    if asked.what == "memory":
        watch_memory(asked.run, talks, 60 * asked.minutes, asked.out)
    else:
        restart(asked.run, talks, asked.times, asked.out)


@contextlib.contextmanager
def server(run: Path) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """Start the server; yield its process and port."""
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "falconer", "serve", "--run", str(run), "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + START_S
            while process.poll() is None and time.monotonic() < end:
                with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
                    break
                time.sleep(0.05)
            else:
                log.seek(0)
                raise SystemExit(f"the server did not start:\n{log.read().decode(errors='replace')[-2000:]}")
            yield process, port
        finally:
            process.kill()
            process.wait()


# Memory


def watch_memory(run: Path, talks: Sequence[Talk], seconds: float, out: Path) -> None:
    with server(run) as (process, port):
        end = time.monotonic() + seconds
        samples: list[dict[str, float]] = []
        counts: Counter[str] = Counter()
        asyncio.run(mixed_load(process, port, run.resolve().name, talks, end, samples, counts, out))
        process.send_signal(signal.SIGTERM)
        code = process.wait(90)
    write_memory(out, samples, counts, code)


async def mixed_load(
    process: "subprocess.Popen[bytes]", port: int, model: str, talks: Sequence[Talk], end: float,
    samples: list[dict[str, float]], counts: "Counter[str]", out: Path,
) -> None:  # fmt: skip
    rng = random.Random(17)
    work = [converse(port, model, talks, end, counts, random.Random(rng.random())) for _ in range(NUM_STREAMS)]
    work += [go_away(port, model, talks, end, counts, random.Random(rng.random())) for _ in range(NUM_LEAVING)]
    work += [send_wrong(port, model, end, counts, random.Random(rng.random())) for _ in range(NUM_WRONG)]
    started = time.monotonic()

    async def sample() -> None:
        while time.monotonic() < end:
            await asyncio.sleep(SAMPLE_S)
            memory = psutil.Process(process.pid).memory_info().rss / 2**20
            samples.append({"s": round(time.monotonic() - started, 1), "rss_mib": round(memory, 1), **gpu_memory()})
            write_memory(out, samples, counts, None)

    await asyncio.gather(sample(), *work)


def gpu_memory() -> dict[str, float]:
    """Return the memory in use on the GPU, if there is one."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    with contextlib.suppress(FileNotFoundError):
        found = subprocess.run(query, capture_output=True, text=True, check=False)
        if found.returncode == 0:
            return {"gpu_mib": float(found.stdout.splitlines()[0])}
    return {}


async def converse(
    port: int, model: str, talks: Sequence[Talk], end: float, counts: "Counter[str]", rng: random.Random
) -> None:
    """Have conversations, some of them with long replies and a long history, with other decoding each time."""
    client = Client(HOST, port)
    while time.monotonic() < end:
        talk = rng.choice(talks)
        messages = messages_of(talk.persona)
        decoding = {
            **reply_options(), "max_tokens": rng.choice((4, 32, 32, 200)), "temperature": rng.choice((0, 0.7, 1.5)),
            "seed": rng.randrange(2**31), "repetition_penalty": rng.choice((1.0, 1.1)),
        }  # fmt: skip
        for text in talk.turns * rng.choice((1, 1, 4)):
            messages.append({"role": "user", "content": text})
            answer = await client.ask(CHAT, {"model": model, "messages": messages, **decoding})
            counts["answered" if not answer.problem else f"not answered: {answer.problem[:80]}"] += 1
            if answer.problem or time.monotonic() > end:
                break
            messages.append({"role": "assistant", "content": answer.text or EMPTY})
    client.close()


async def go_away(
    port: int, model: str, talks: Sequence[Talk], end: float, counts: "Counter[str]", rng: random.Random
) -> None:
    """Close the connection in the middle of each reply."""
    while time.monotonic() < end:
        client, talk = Client(HOST, port), rng.choice(talks)
        messages = [*messages_of(talk.persona), {"role": "user", "content": talk.turns[0]}]
        body = {
            "model": model,
            "messages": messages,
            **reply_options(),
            "max_tokens": 200,
            "temperature": 1.0,
            "seed": rng.randrange(2**31),
        }
        answer = await client.ask(CHAT, body, most_pieces=rng.randint(1, 4))
        counts["cancelled" if answer.problem == "cancelled" else "ended before it was cancelled"] += 1
        client.close()
        await asyncio.sleep(rng.random())


def wrong_bodies(model: str) -> list[tuple[bytes, int]]:
    """Return bodies that a server must refuse, and the status with which it does."""
    hello = [{"role": "user", "content": "hi"}]
    good: dict[str, Any] = {"model": model, "messages": hello}
    bodies: list[tuple[dict[str, Any], int]] = [
        (good | {"model": "none"}, 404), (good | {"messages": []}, 400), (good | {"n": 1000}, 400),
        (good | {"temperature": -1}, 400), (good | {"messages": [*hello, {"role": "system", "content": "no"}]}, 400),
        (good | {"messages": [{"role": "user", "content": "long " * 50_000}]}, 400),
        (good | {"messages": [{"role": "user", "content": "x" * 2_000_000}]}, 413),
    ]  # fmt: skip
    return [(b"{", 400), (b"\xff\xfe", 400), *((json.dumps(body).encode(), status) for body, status in bodies)]


async def send_wrong(port: int, model: str, end: float, counts: "Counter[str]", rng: random.Random) -> None:
    """Send what must be refused."""
    bodies = wrong_bodies(model)
    while time.monotonic() < end:
        client, (body, status) = Client(HOST, port), rng.choice(bodies)
        answer = await client.ask(CHAT, body)
        # A body that is too large may be refused before all of it was sent.
        good = answer.status == status or (status == 413 and answer.status == 0)
        counts["refused" if good else f"wrong answer to {body[:30]!r}: {answer.problem[:80]}"] += 1
        client.close()
        await asyncio.sleep(rng.random())


def write_memory(out: Path, samples: Sequence[dict[str, float]], counts: "Counter[str]", code: int | None) -> None:
    content: dict[str, Any] = {
        "what": "falconer serve under mixed load: 16 streams, 4 clients that go away, 2 that send bad requests",
        "command": shown_command(sys.argv), "requests": dict(sorted(counts.items())), "exit_code": code,
    }  # fmt: skip
    third = len(samples) // 3
    if third:
        for name in samples[0].keys() - {"s"}:
            parts = [samples[:third], samples[third : 2 * third], samples[2 * third :]]
            content[f"{name}_median_of_thirds"] = [
                round(statistics.median(one[name] for one in part), 1) for part in parts
            ]  # fmt: skip
    write(out, content | {"samples": list(samples)})


# Restarts


def restart(run: Path, talks: Sequence[Talk], times: int, out: Path) -> None:
    found: list[dict[str, Any]] = []
    rng = random.Random(17)
    for number in range(times):
        with server(run) as (process, port):
            counts: Counter[str] = Counter()
            after_s = rng.uniform(0.0, 3.0)
            seconds, code = asyncio.run(stop_under_load(process, port, run.resolve().name, talks, after_s, counts))
        found.append({"stopped_after_s": round(after_s, 2), "ended_after_s": seconds, "exit_code": code, **counts})
        total: Counter[str] = Counter()
        for one in found:
            total.update({name: count for name, count in one.items() if name not in SINGLE})
        lost = {name: count for name, count in total.items() if name.startswith("lost")}
        print(number + 1, found[-1], file=sys.stderr)
        write(out, {
            "what": "falconer serve stopped by SIGTERM while 16 streams run",
            "command": shown_command(sys.argv), "restarts": len(found), "lost": sum(lost.values()),
            "exit_codes": dict(Counter(str(one["exit_code"]) for one in found)),
            "slowest_end_s": max(one["ended_after_s"] for one in found), "requests": dict(sorted(total.items())),
            "each": found,
        })  # fmt: skip


SINGLE = frozenset(("stopped_after_s", "ended_after_s", "exit_code"))


async def stop_under_load(
    process: "subprocess.Popen[bytes]",
    port: int,
    model: str,
    talks: Sequence[Talk],
    after_s: float,
    counts: "Counter[str]",
) -> tuple[float, int]:
    """Stop the server while streams run; return how long it took to end, and its exit code."""
    streams = [asyncio.create_task(until_refused(port, model, talks[number], counts)) for number in range(NUM_STREAMS)]
    await asyncio.sleep(1.0 + after_s)
    process.send_signal(signal.SIGTERM)
    stopped = time.monotonic()
    code = await asyncio.to_thread(process.wait, 90)
    seconds = round(time.monotonic() - stopped, 2)
    await asyncio.wait_for(asyncio.gather(*streams), 30)
    return seconds, code


async def until_refused(port: int, model: str, talk: Talk, counts: "Counter[str]") -> None:
    """Have a conversation again and again, until the server refuses."""
    client = Client(HOST, port)
    while True:
        messages = messages_of(talk.persona)
        for text in talk.turns:
            messages.append({"role": "user", "content": text})
            # A connection of its own, so that one that the server closes between two requests is not taken for a loss.
            client.close()
            answer = await client.ask(CHAT, {"model": model, "messages": messages, **reply_options()})
            if answer.problem:
                counts[kind_of(answer)] += 1
                return
            counts["answered"] += 1
            messages.append({"role": "assistant", "content": answer.text or EMPTY})


def kind_of(answer: Answer) -> str:
    """Return what became of a request that was not answered in full."""
    if answer.status == 503:
        return "refused with 503"
    if answer.status == 0 and answer.problem.startswith("ConnectionRefusedError"):
        return "not connected"
    return f"lost: HTTP {answer.status}, {answer.problem[:80]}"


def write(out: Path, content: dict[str, Any]) -> None:
    environment = {"cores": os.cpu_count(), "load_average": [round(one, 1) for one in os.getloadavg()]}
    with replace_file(out) as aside:
        aside.write_text(json.dumps(content | environment, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
