"""A small training and its evaluation in forked processes, which can be killed, and whether two runs are equal.

A fork of a process that has loaded the libraries starts in milliseconds, so that many kills fit into an hour.
The run is always at the same path, since its configuration and its report name it.
"""

import dataclasses
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from small_runs import Small

TIMINGS = frozenset(("tok_per_s", "memory_gib", "time_s"))
SETTINGS = (
    "lora.dropout=0.1", "train.max_steps=8", "train.validate_every=4", "train.save_every=3", "train.patience=9",
    "evaluate.max_replies=3", "evaluate.max_dialogues=2", "evaluate.max_new_tokens=4", "evaluate.resamples=100",
    "evaluate.num_samples=2",
)  # fmt: skip
# A kill leaves its signal as exit code; an error of falconer 2; a traceback 1.
KILLED, REFUSED, FINISHED = -signal.SIGKILL, 2, 0
# A command of this small world takes seconds; one that takes longer than this has stopped for ever.
HUNG, MOST_S = 1000, 120.0


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, what it printed to stderr, and the seconds that it took."""

    code: int
    err: str
    seconds: float

    @property
    def is_one_line(self) -> bool:
        """Whether it is an error of falconer in one line, behind what was printed before."""
        last = self.err.rstrip().splitlines()[-1:] or [""]
        return self.code == REFUSED and last[0].startswith("falconer: ") and "Traceback" not in self.err


@dataclasses.dataclass(frozen=True)
class Training:
    """A command that trains, and what it comes to undisturbed.

    Args:
        begin, resume: the command for a new run, and for one that was stopped.
        run: the folder that it writes.
        earlier: a copy of the run that must be in the world's place before.
        whole: a copy of what it writes undisturbed.
        seconds: how long that takes.
    """

    begin: list[str]
    resume: list[str]
    run: Path
    earlier: Path | None
    whole: Path
    seconds: float

    @property
    def next(self) -> list[str]:
        """The command that goes on from what there is."""
        return self.resume if (self.run / "config.yaml").exists() else self.begin


class World:
    """A folder with a tiny model, dialogues, and the run that everything is done to.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        small = Small(folder)
        test = folder / "test.jsonl"
        shutil.copy(small.valid, test)
        self.settings = [*small.settings, f"data.test={test}", *SETTINGS]
        # A folder of its own, whose disk may be lost.
        self.folder, self.place = folder, folder / "place"
        self.run = self.place / "run"
        self.trained = folder / "trained"
        self.evaluated = folder / "evaluated"
        self.train_s = 0.0

    @property
    def train(self) -> list[str]:
        return ["train", "--run", str(self.run), *self.settings]

    @property
    def resume(self) -> list[str]:
        return ["train", "--run", str(self.run), "--resume"]

    @property
    def evaluate(self) -> list[str]:
        return ["evaluate", "--run", str(self.run)]

    @property
    def training(self) -> Training:
        """`falconer train`, which `make_references` has carried out."""
        return Training(self.train, self.resume, self.run, None, self.trained, self.train_s)

    def preference(self) -> Training:
        """Carry out `falconer prefer` on the trained run, and return it."""
        out, whole = self.place / "preferred", self.folder / "preferred"
        settings = ("prefer.max_pairs=8", "prefer.max_turns=6", "train.max_steps=5", "train.validate_every=2")
        sources = ("--pairs", "distractors,repetitions")
        begin = ["prefer", "--run", str(self.run), "--out", str(out), *sources, *settings, "train.save_every=1"]
        self.start_with(self.trained)
        done = self.command(begin)
        assert done.code == FINISHED, done.err
        shutil.copytree(out, whole)
        return Training(begin, ["prefer", "--out", str(out), "--resume"], out, self.trained, whole, done.seconds)

    def make_references(self) -> None:
        """Train and evaluate undisturbed, and keep copies of the run."""
        self.start_with(None)
        trained = self.command(self.train)
        assert trained.code == FINISHED, trained.err
        shutil.copytree(self.run, self.trained)
        self.train_s = trained.seconds
        evaluated = self.command([*self.evaluate, "--controls"])
        assert evaluated.code == FINISHED, evaluated.err
        shutil.copytree(self.run, self.evaluated)

    def start_with(self, copy: Path | None) -> None:
        """Put a copy of a run in place of the run; None: no run."""
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        if copy:
            shutil.copytree(copy, self.run, symlinks=True)

    def start_as(self, place: Path) -> None:
        """Let the place be as a copy of it was."""
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(place, self.place, symlinks=True)

    def command(
        self, arguments: list[str], *, kill_after: float | None = None, first: Callable[[], Any] = lambda: None
    ) -> Ended:
        """Run a command in a fork of this process.

        Args:
            kill_after: seconds until it is killed.
            first: what the fork does before the command; it may return what is done at the end.
        """
        started = time.monotonic()
        err = self.folder / "stderr.txt"
        child = os.fork()
        if child == 0:
            _become(err, first, arguments)
        code = _wait(child, started + (MOST_S if kill_after is None else kill_after))
        if code == KILLED and kill_after is None and time.monotonic() - started >= MOST_S:
            code = HUNG
        return Ended(code, err.read_text(errors="replace"), time.monotonic() - started)


def _become(err: Path, first: Callable[[], Any], arguments: list[str]) -> None:
    """Be the command until it ends; never returns."""
    code, last = 1, None
    try:
        descriptor = os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 2)
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        os.dup2(1, 0)
        sys.argv = ["falconer", *arguments]
        from falconer import cli

        last = first()
        cli.main()
        code = 0
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        if last is not None:
            last()
        os._exit(code)


def _wait(child: int, until: float) -> int:
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        left = until - time.monotonic()
        if left <= 0:
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(min(left, 0.002))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def difference(one: Path, other: Path, *, hidden: bool = True) -> str:
    """Return the first difference of two folders, timings apart; "" if they are equal.

    Args:
        hidden: whether hidden names count, which are those of temporary files and locks.
    """
    here, there = (
        {name: content for name, content in contents(folder).items() if hidden or not _is_hidden(name)}
        for folder in (one, other)
    )
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            state = "missing" if name not in here else "new" if name not in there else "different"
            return f"{name} is {state}"
    return ""


def contents(run: Path) -> dict[str, Any]:
    """Return what a run holds, by path, without what clocks and process ids say; the events are one entry."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.is_dir():
            found[name] = "folder"
        elif path.parent.name == "tensorboard":
            found[f"{name.rpartition('/')[0]}/events"] = events(path.parent)
        else:
            found[name] = _content(path)
    return found


def events(folder: Path) -> list[Any]:
    """Return (tag, step, value) of all events, as TensorBoard's own reader finds them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder))
    reader.Reload()
    return [
        (tag, event.step, event.value)
        for tag in sorted(reader.Tags()["scalars"])
        if tag.partition("/")[2] not in TIMINGS
        for event in reader.Scalars(tag)
    ]


def _content(path: Path) -> Any:
    if path.name == "steps.jsonl":
        return [_less(json.loads(line), TIMINGS) for line in path.read_text().splitlines()]
    if path.name == "state.json":
        tree = json.loads(path.read_text())
        return {**tree, "progress": _less(tree["progress"], {"trained_s"})}
    if path.name == "training.json":
        return _less(json.loads(path.read_text()), {"at", "sha256"})
    if path.name == "manifest.json" and path.parent.name == "last":
        # state.json and steps.jsonl hold times; the other hashes are compared.
        return _less(json.loads(path.read_text())["files"], {"state.json", "steps.jsonl"})
    return path.read_bytes()


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in Path(name).parts)


def _less(tree: dict[str, Any], names: frozenset[str] | set[str]) -> dict[str, Any]:
    return {name: value for name, value in tree.items() if name not in names}
