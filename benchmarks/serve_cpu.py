"""The server under load on a CPU, beside `transformers serve` with the merged model, on the same machine.

    falconer quickstart
    python benchmarks/serve_cpu.py --run runs/quickstart --out benchmarks/results/serve-cpu.json

Streams of Persona-Chat conversations of 6 turns (`falconer.bench.serve_load`) load each server: 1, 8 and 64 of them,
each for at most --seconds and at most --talks conversations a stream; a stream keeps the replies that it got. The two
servers take turns, so that other work on the machine strikes both. At the end each reply of falconer is compared with
the greedy reply to the same prompt that the engine generates without the server: those to all prompts in batches, and
those to 100 prompts, chosen at random, one at a time.

What differs: both get the same turns in Persona-Chat's spaced style, the same persona and the same limit of 32 tokens,
and decode greedily in fp32. falconer ends a reply at a line break too, as evaluation does, while transformers goes on
with the next turns, up to the limit or the end token. falconer shows natural text, transformers the model's own.
transformers does not say how much of a prompt was cached. It needs `pip install transformers[serving]`.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch

from falconer import jobs, runtime
from falconer.bench.result import shown_command
from falconer.bench.serve import quantile, reply_options, talks_of
from falconer.bench.serve_check import compare_replies
from falconer.bench.serve_load import Done, Load, Talk, run_load
from falconer.config import for_chat
from falconer.data.sources import load_dialogues
from falconer.data.text import spaced
from falconer.model.export.merge import merge_adapter
from falconer.run.folder import ADAPTER, read_config

STREAMS = (1, 8, 64)
OTHERS = ("transformers", "transformers-continuous-batching")
FP32 = "model.dtype=fp32"
HOST = "127.0.0.1"
START_S = 180.0
# Replies that the engine generates at a time for the comparison, and the prompts that it answers one at a time.
BATCH_SIZE, NUM_ALONE = 32, 100
# Number of the first conversation that is had before the measurement, which no measurement has.
WARM = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--talks", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--streams", type=int, nargs="+", default=list(STREAMS))
    parser.add_argument("--against", nargs="*", default=["transformers"], choices=OTHERS)
    parser.add_argument("--out", type=Path, default=Path("serve-cpu.json"))
    asked = parser.parse_args()
    runtime.quiet_libraries()
    dialogues = [*load_dialogues("persona-chat-sample", split="test").dialogues]
    dialogues += load_dialogues("persona-chat-sample", split="train").dialogues
    talks = tuple(in_trained_style(talk) for talk in talks_of(dialogues))
    rows: list[dict[str, Any]] = []
    everything: list[Done] = []
    with tempfile.TemporaryDirectory() as folder:
        systems = ["falconer"]
        if asked.against:
            merge_adapter(read_config(asked.run).model.name, asked.run / ADAPTER, Path(folder) / "merged")
            systems += asked.against
        first = 0
        for number in range(asked.rounds):
            for num_streams in asked.streams:
                for system in list(systems):
                    try:
                        with started(system, asked.run, Path(folder) / "merged") as (port, model, process):
                            load = load_of(system, port, model, talks, num_streams, asked.seconds, asked.talks)
                            warm = run_load(replace(load, num_streams=min(4, num_streams), most_talks=1, first=WARM), 1)
                            print(system, num_streams, "warm", len(warm), file=sys.stderr)
                            done = run_load(replace(load, first=first), 1)
                            memory = psutil.Process(process.pid).memory_info().rss / 2**30
                    except RuntimeError as error:
                        print(f"{system} left out: {error}", file=sys.stderr)
                        systems.remove(system)
                        continue
                    if system == "falconer":
                        everything += done
                    rows.append(row_of(system, number, num_streams, done, memory))
                    print(json.dumps(rows[-1]), file=sys.stderr)
                    write(asked.out, rows, {})
                first += num_streams * asked.talks
    write(asked.out, rows, check(asked.run, everything, talks))


def in_trained_style(talk: Talk) -> Talk:
    """Return a conversation as the model was trained on it, which falconer would do and transformers would not."""
    return replace(talk, persona=tuple(map(spaced, talk.persona)), turns=tuple(map(spaced, talk.turns)))


def load_of(
    system: str, port: int, model: str, talks: tuple[Talk, ...], num_streams: int, seconds: float, most_talks: int
) -> Load:
    options = reply_options()
    if system != "falconer":
        # It refuses these fields; it tells the tokens without being asked, and has no penalty by itself.
        del options["stream_options"], options["repetition_penalty"], options["no_repeat_ngram_size"]
        options["temperature"] = 0.0
    return Load(
        HOST, port, (model,), talks, num_streams, spread_s=0.0, seconds=seconds, options=options, most_talks=most_talks
    )  # fmt: skip


@contextlib.contextmanager
def started(system: str, run: Path, merged: Path) -> Iterator[tuple[int, str, "subprocess.Popen[bytes]"]]:
    """Start a server; yield its port, the model's name and its process."""
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    if system == "falconer":
        command = [sys.executable, "-m", "falconer", "serve", "--run", str(run), "--port", str(port), FP32]
    else:
        program = str(Path(sys.executable).with_name("transformers"))
        command = [program, "serve", str(merged), "--host", HOST, "--port", str(port), "--device", "cpu"]
        command += ["--dtype", "float32", *(["--continuous-batching"] if "batching" in system else [])]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until_ready(process, port)
            model = str(merged) if system != "falconer" else run.resolve().name
            yield port, model, process
        except RuntimeError:
            log.seek(0)
            print(log.read().decode(errors="replace")[-3000:], file=sys.stderr)
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()


def wait_until_ready(process: "subprocess.Popen[bytes]", port: int) -> None:
    """Wait until the server answers."""
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5):
            return
        time.sleep(0.2)
    raise RuntimeError(f"the server did not start: exit code {process.poll()}")


def row_of(system: str, number: int, num_streams: int, done: Sequence[Done], memory: float) -> dict[str, Any]:
    """Return the figures of a load, from its first request to its last answer."""
    answers = [one.answer for one in done if not one.answer.problem]
    problems = [one.answer.problem for one in done if one.answer.problem]
    seconds = max(one.answer.ended_s for one in done) - done[0].answer.sent_s
    num_tokens = sum(answer.num_tokens for answer in answers)
    firsts = [1e3 * (answer.pieces[0][0] - answer.sent_s) for answer in answers if answer.pieces] or [0.0]
    num_prompt = sum(answer.num_prompt_tokens for answer in answers)
    return {
        "system": system, "round": number, "streams": num_streams, "seconds": round(seconds, 1),
        "requests": len(answers), "lost": len(problems), "problems": sorted(set(problems))[:3],
        "tok_s": round(num_tokens / seconds, 1), "replies_per_s": round(len(answers) / seconds, 2),
        "first_ms": round(quantile(firsts, 0.5), 1), "first_ms_p90": round(quantile(firsts, 0.9), 1),
        "first_ms_p99": round(quantile(firsts, 0.99), 1),
        "reply_tokens": round(num_tokens / max(1, len(answers)), 1),
        "prompt_tokens": round(num_prompt / max(1, len(answers)), 1),
        "cached": round(sum(answer.num_cached for answer in answers) / max(1, num_prompt), 3),
        "rss_gib": round(memory, 2),
    }  # fmt: skip


def check(run: Path, done: Sequence[Done], talks: Sequence[Talk]) -> dict[str, Any]:
    """Compare the replies with the engine's own; see the top of this file."""
    opened = jobs.open_run(run, config=for_chat(read_config(run), [FP32]))
    found: dict[str, Any] = {}
    with opened.engine as engine:
        for name, batch_size, num_prompts in (("in_batches", BATCH_SIZE, None), ("alone", 1, NUM_ALONE)):
            started_s = time.monotonic()
            compared = compare_replies(
                done, talks, engine, reply_options()["max_tokens"], batch_size=batch_size, num_prompts=num_prompts
            )
            found[name] = {
                "batch_size": batch_size, "prompts": compared.num_prompts, "replies": compared.num_replies,
                "different": len(compared.wrong), "seconds": round(time.monotonic() - started_s, 1),
                "examples": [{"got": one.answer.text, "expected": text} for one, text in compared.wrong[:5]],
            }  # fmt: skip
    return found


def write(out: Path, rows: Sequence[dict[str, Any]], checked: dict[str, Any]) -> None:
    environment = runtime.environment(torch.device("cpu"))
    content = {
        "what": "falconer serve and transformers serve under streams of Persona-Chat conversations, greedy, fp32",
        "command": shown_command(sys.argv), "machine": environment["device"],
        "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "load_average": [round(one, 1) for one in os.getloadavg()],
        "versions": {name: environment[name] for name in ("torch", "transformers", "peft")},
        "rows": list(rows), "replies": checked,
    }  # fmt: skip
    out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
