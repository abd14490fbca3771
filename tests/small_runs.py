"""Runs of seconds: a two-layer model, a handful of made-up dialogues, and the three ways to start training on them."""

import io
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console

from falconer import config
from falconer.run.folder import read_steps
from falconer.train import loop
from tiny import save_tiny_model

# Each is one token of falcon-mini behind a space.
WORDS = [
    "i", "like", "dogs", "and", "cats", "but", "my", "sister", "has", "two", "big", "horses", "that", "run", "fast",
    "when", "we", "play", "in", "the", "snow",
]  # fmt: skip


# Python's arguments before the name of a module that two ranks of one machine run.
TWO_RANKS = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "--")


def write_dialogues(path: Path, num: int, *, seed: int, num_words: tuple[int, int] = (2, 9)) -> Path:
    """Write `num` dialogues of one to three exchanges, every utterance of so many random words, in our format."""
    rng = random.Random(seed)

    def words(count: int) -> str:
        return " ".join(rng.choices(WORDS, k=count))

    with path.open("w", encoding="utf-8") as file:
        for index in range(num):
            turns = [
                {"speaker": speaker, "text": words(rng.randint(*num_words))}
                for _ in range(rng.randint(1, 3))
                for speaker in ("partner", "self")
            ]
            row = {"id": f"{path.stem}-{index}", "persona": [words(5), words(4)], "turns": turns}
            file.write(json.dumps(row) + "\n")
    return path


class Small:
    """A folder with a tiny Falcon, 24 training and 6 validation dialogues, and the overrides that train on them.

    Args:
        folder: an empty folder.
        architecture: see tests/tiny.py.
    """

    def __init__(self, folder: Path, architecture: str = "falcon") -> None:
        self.model = save_tiny_model(folder / architecture, architecture)
        self.train = write_dialogues(folder / "train.jsonl", 24, seed=5)
        self.valid = write_dialogues(folder / "valid.jsonl", 6, seed=6)
        self.settings = [
            f"model.name={self.model}", "model.quantization=none", "model.dtype=fp32", "model.device=cpu",
            f"data.train={self.train}", f"data.valid={self.valid}",
            "lora.r=4", "lora.alpha=8", "lora.dropout=0", "train.learning_rate=5e-3", "train.epochs=20",
            "train.step_tokens=400", "train.micro_tokens=400", "train.max_steps=6", "train.validate_every=3",
        ]  # fmt: skip

    def config(self, *overrides: str) -> config.Config:
        return config.load(None, [*self.settings, *overrides])

    def run(self, folder: Path, *overrides: str, resume: bool = False) -> loop.TrainResult:
        """Train in this process, through the function that the command line calls."""
        return loop.train(self.config(*overrides), folder, resume=resume, console=silent())

    def arguments(self, folder: Path, *overrides: str) -> list[str]:
        """Return what follows `falconer` on the command line."""
        return ["train", "--run", str(folder), *self.settings, *overrides]


def silent() -> Console:
    """Return a console that shows nothing."""
    return Console(file=io.StringIO())


def command(
    arguments: Sequence[str], *, launcher: Sequence[str] = ("-m",), name: str = "falconer", warnings: str = "error"
) -> "subprocess.Popen[str]":
    """Start the real command in a process of its own, with one thread.

    Args:
        launcher: Python's arguments before `name`; a launcher of several ranks may stand here.
        name: what is started, if not falconer itself.
        warnings: what becomes of them; "" is what a user gets.
    """
    source = Path(__file__).parents[1] / "src"
    # With what the tests themselves find there, such as an optional package.
    paths = os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": warnings}
    return subprocess.Popen(
        [sys.executable, *launcher, name, *arguments], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def two_nodes(arguments: Sequence[str], *, c10d: bool = False) -> list[tuple[int, str, str]]:
    """Run the command on two nodes with two ranks each; return each node's exit code and what it printed.

    A node is a torchrun of its own, as on a machine of its own; here they meet on the loopback interface.

    Args:
        c10d: the nodes number themselves; otherwise they are numbered by --node-rank, and the first one listens.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    numbered = ("--master-addr", "127.0.0.1", "--master-port", port)
    meeting = ("--rdzv-backend", "c10d", "--rdzv-id", "tests", "--rdzv-endpoint", f"127.0.0.1:{port}")
    started = []
    for number in range(2):
        own = meeting if c10d else (*numbered, "--node-rank", str(number))
        launcher = ("-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2", *own)
        started.append(command(arguments, launcher=(*launcher, "--local-addr", "127.0.0.1", "-m", "--")))
    with ThreadPoolExecutor() as pool:
        printed = list(pool.map(lambda process: process.communicate(timeout=240), started))
    return [(process.returncode, *both) for process, both in zip(started, printed, strict=True)]


def steps(run: Path) -> list[dict[str, Any]]:
    """Return a run's training rows."""
    return [row for row in read_steps(run) if "loss" in row]


def validations(run: Path) -> list[dict[str, Any]]:
    """Return a run's validation rows."""
    return [row for row in read_steps(run) if "valid_loss" in row]


def exact(run: Path) -> list[dict[str, Any]]:
    """Return all rows of a run without what a clock or the operating system says."""
    measured = {"tok_per_s", "memory_gib", "time_s"}
    return [{key: value for key, value in row.items() if key not in measured} for row in read_steps(run)]
