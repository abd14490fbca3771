"""Training speed on several GPUs of one machine, compared with one, at Falcon-7B's shape with random weights.

    python benchmarks/bench_ranks.py [--ranks 2] [--steps 30] [--only losses] [--room FOLDER] [--out FILE.json]

A base in bf16 is written first (13 GiB). Then `falconer train --preset falcon-7b` trains on the embedded dialogues as
it does for everybody, alone and under torchrun. A speed is the median of the steps of a run after the first five.
There are two ratios: to one GPU with steps of the same size, and to one GPU whose steps are as large as the part of one
rank. At last, both train without dropout, which is drawn for each rank: the losses then have to agree to rounding.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from bench_merge import write_model

from falconer import runtime
from falconer.bench.result import write_result
from falconer.model.random_falcon import FALCON_7B

STEP_TOKENS = (16384, 32768)
WARM_UP = 5


def start(run: Path, base: Path, ranks: int, step_tokens: int, steps: int, dropout: float, gpu: int) -> Any:
    """Start a training; with one rank, on the GPU of that number."""
    launcher = [] if ranks == 1 else ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    module = ["-m", "falconer"] if ranks == 1 else ["-m", "--", "falconer"]
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": str(gpu)} if ranks == 1 else {})
    return subprocess.Popen(
        [
            sys.executable, *launcher, *module, "train", "--preset", "falcon-7b", "--run", str(run),
            f"model.name={base}", "data.train=persona-chat-sample", "data.text=raw", f"train.step_tokens={step_tokens}",
            f"train.max_steps={steps}", f"lora.dropout={dropout}", "train.epochs=4",
        ],
        env=environment, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def finished(process: Any, run: Path) -> list[dict[str, Any]]:
    """Wait for a training; return its steps' rows."""
    if code := process.wait():
        raise SystemExit(f"falconer train ended with {code}")
    rows = [json.loads(line) for line in (run / "steps.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if "tok_per_s" in row]


def row_of(ranks: int, step_tokens: int, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of the results of a run."""
    timed = steps[WARM_UP:]
    return {
        "gpus": ranks, "step_tokens": step_tokens, "timed_steps": len(timed),
        "tokens_per_s": round(statistics.median(row["tok_per_s"] for row in timed)),
        "memory_gib": round(max(row["memory_gib"] for row in steps), 2), "first_loss": steps[0]["loss"],
    }  # fmt: skip


def speeds(room: Path, ranks: int, steps: int) -> list[dict[str, Any]]:
    """Measure one GPU with all sizes of a step, as many at a time as there are GPUs, and then several GPUs."""
    alone = sorted({size // part for size in STEP_TOKENS for part in (1, ranks)})
    rows = []
    for first in range(0, len(alone), ranks):
        sizes = alone[first : first + ranks]
        runs = [(size, room / f"one-{size}") for size in sizes]
        started = [start(run, room / "base", 1, size, steps, 0.05, gpu) for gpu, (size, run) in enumerate(runs)]
        rows += [
            row_of(1, size, finished(process, run)) for process, (size, run) in zip(started, runs, strict=True)
        ]  # fmt: skip
    for size in STEP_TOKENS:
        run = room / f"several-{size}"
        rows.append(row_of(ranks, size, finished(start(run, room / "base", ranks, size, steps, 0.05, 0), run)))
    of_one = {row["step_tokens"]: row["tokens_per_s"] for row in rows if row["gpus"] == 1}
    for row in rows:
        if row["gpus"] > 1:
            row["to_one_gpu"] = round(row["tokens_per_s"] / of_one[row["step_tokens"]], 3)
            row["to_one_gpu_same_part"] = round(row["tokens_per_s"] / of_one[row["step_tokens"] // ranks], 3)
        print(row, flush=True)
    return rows


def losses(room: Path, ranks: int, steps: int) -> list[dict[str, Any]]:
    """Train without dropout on one GPU and on several; return how far the losses of their steps are apart."""
    size, found = STEP_TOKENS[0], []
    for count in (1, ranks):
        run = room / f"exact-{count}"
        found.append([row["loss"] for row in finished(start(run, room / "base", count, size, steps, 0.0, 0), run)])
    apart = [abs(a - b) / a for a, b in zip(*found, strict=True)]
    row = {
        "what": "relative difference of a step's loss between one GPU and several, dropout 0", "gpus": ranks,
        "step_tokens": size, "steps": steps, "largest": max(apart), "median": statistics.median(apart),
    }  # fmt: skip
    print(row, flush=True)
    return [row]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=torch.cuda.device_count())
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--layers", type=int, default=FALCON_7B["num_hidden_layers"])
    parser.add_argument("--only", choices=["speeds", "losses"], help="measure only the speeds, or only the losses")
    parser.add_argument("--room", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.ranks < 2 or given.ranks > torch.cuda.device_count():
        parser.error(f"--ranks is from 2 to the number of GPUs, of which there are {torch.cuda.device_count()}")
    runtime.quiet_libraries()
    shape = {**FALCON_7B, "num_hidden_layers": given.layers}
    with tempfile.TemporaryDirectory(dir=given.room) as name:
        room = Path(name)
        write_model(shape, room)
        torch.cuda.empty_cache()
        what, rows = "falconer train on several GPUs, random weights of Falcon-7B's shape", []
        for part, measure in (("speeds", speeds), ("losses", losses)):
            if given.only in (None, part):
                rows += measure(room, given.ranks, given.steps)
                if given.out:  # after each part, since the second one may be interrupted
                    write_result(given.out, what, rows)


if __name__ == "__main__":
    main()
