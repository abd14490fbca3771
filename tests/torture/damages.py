"""Damaged run folders: each file x each kind of damage x each command: one line or no harm, and flips are noticed."""

import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from unittest import mock

from command_line import Result, falconer
from torture.mutations import TooLong, at_most
from torture.worlds import MOST_S
from torture.writers import ORIGIN

# Which commands read a file, so that they must notice a flipped bit in it. "runs" says so in its list.
_SETTINGS = ("resume", "evaluate", "chat", "serve", "merge", "gguf", "certify", "share")
_ADAPTER = _SETTINGS
_BASE = ("resume", "evaluate", "chat", "serve", "merge", "gguf", "certify")
READERS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "config.yaml": (*_SETTINGS, "report", "runs"),
    "run.json": (*_SETTINGS, "runs"),
    "splits.json": ("resume", "evaluate", "merge", "gguf", "certify"),
    "manifest.json": (*_SETTINGS, "report", "runs"),
    "steps.jsonl": ("resume", "report"),
    "training.json": ("resume", "runs", "share"),
    "loss_curve.png": ("report",),
    "chat.json": ("report",),
    "metrics.json": ("report", "runs", "share"),
    "evaluation.json": ("report", "compare", "score", "runs", "share"),
    "predictions-base.jsonl": ("report",),
    "predictions-tuned.jsonl": ("report", "compare", "score", "share"),
    "predictions-no_history.jsonl": ("report",),
    "adapter/adapter_model.safetensors": _ADAPTER,
    "adapter/adapter_config.json": _ADAPTER,
    "adapter/falconer.json": _ADAPTER,
    "adapter/tokenizer.json": _ADAPTER,
    "adapter/tokenizer_config.json": _ADAPTER,
    "adapter/chat_template.jinja": _ADAPTER,
    "adapter/manifest.json": _ADAPTER,
    "checkpoints/last/adapter_model.safetensors": ("resume",),
    "checkpoints/last/adapter_config.json": ("resume",),
    "checkpoints/last/optimizer.safetensors": ("resume",),
    "checkpoints/last/state.json": ("resume",),
    "checkpoints/last/steps.jsonl": ("resume", "report"),
    "checkpoints/last/manifest.json": ("resume", "report"),
    # In a copy of the base model's folder.
    "base/model.safetensors": _BASE,
    "base/config.json": _BASE,
    "base/tokenizer.json": _BASE,
})  # fmt: skip
COMMANDS = (
    "resume", "evaluate", "chat", "serve", "report", "compare", "score", "runs", "merge", "gguf", "certify", "share",
)  # fmt: skip
# Where these are damaged, the command goes on with what it has, and says so.
SAID = MappingProxyType({
    ("steps.jsonl", "resume"): "restored from the checkpoint", ("loss_curve.png", "report"): "missing or damaged",
})  # fmt: skip


def _missing(path: Path, dice: random.Random) -> None:
    path.unlink()


def _empty(path: Path, dice: random.Random) -> None:
    path.write_bytes(b"")


def _cut(path: Path, dice: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: dice.randrange(1, len(content))])


def _zeroed(path: Path, dice: random.Random) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _flipped(path: Path, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def _other_type(path: Path, dice: random.Random) -> None:
    path.write_text(dice.choice(("[]", "3", '"x"', "null", "{}", "[[1]]", '{"a": {"b": [1, 2, "x"]}}')) + "\n")


def _noise(path: Path, dice: random.Random) -> None:
    path.write_bytes(dice.randbytes(dice.randrange(1, 5000)))


def _folder(path: Path, dice: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path, dice: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _unreadable(path: Path, dice: random.Random) -> None:
    """A link to itself can't be opened, by root neither."""
    path.unlink()
    path.symlink_to(path)


DAMAGES: Mapping[str, Callable[[Path, random.Random], None]] = MappingProxyType({
    "missing": _missing, "empty": _empty, "cut": _cut, "zeroed": _zeroed, "flipped": _flipped,
    "other type": _other_type, "noise": _noise, "folder": _folder, "pipe": _pipe, "unreadable": _unreadable,
})  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A file, what happens to it, and the command that comes next; `seed` decides on the place of the damage."""

    file: str
    damage: str
    command: str
    seed: int


def cases(seed: int) -> list[Case]:
    """Return all of them, in the same order for every seed."""
    return [Case(file, damage, command, seed) for file in READERS for damage in DAMAGES for command in COMMANDS]


def examine(case: Case, evaluated: Path, base: Path, folder: Path, failing: Path) -> str:
    """Damage a copy of a run and run the command; return what is wrong, or "".

    Args:
        evaluated: a run that was trained and evaluated; its base model is `base`, which is restored.
        folder: does not exist; for the copy.
        failing: where what was damaged is kept if something is wrong.
    """
    run = folder / "run"
    shutil.copytree(evaluated, run)
    path = base / case.file.removeprefix("base/") if case.file.startswith("base/") else run / case.file
    kept = path.read_bytes() if path.is_relative_to(base) else None
    wrong = ""
    try:
        DAMAGES[case.damage](path, random.Random(f"{case.seed} {case.file} {case.damage}"))
        with stopped_early(), at_most(MOST_S):
            result = falconer(*arguments(case.command, run, evaluated))
        wrong = _wrong(case, result)
    except Exception as error:  # a traceback for the user
        wrong = f"{type(error).__name__}: {error}"
    except TooLong:
        wrong = f"it takes more than {MOST_S:.0f} s"
    finally:
        if wrong:
            _keep(folder if kept is None else base, failing / "found")
        if kept is not None:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
            path.write_bytes(kept)
        shutil.rmtree(folder)
    return wrong


def _keep(folder: Path, into: Path) -> None:
    def pipes(within: str, names: list[str]) -> list[str]:
        return [name for name in names if (Path(within) / name).is_fifo()]

    shutil.copytree(folder, into, symlinks=True, dirs_exist_ok=True, ignore=pipes)


def arguments(command: str, run: Path, evaluated: Path) -> list[str]:
    """Return what follows `falconer`."""
    of_run, little = ["--run", str(run)], ["--no-measure", "--conversations", "1"]
    return {
        "resume": ["train", *of_run, "--resume"],
        "evaluate": ["evaluate", *of_run],
        "chat": ["chat", *of_run],
        "serve": ["serve", *of_run, "--port", "0"],
        "report": ["report", *of_run],
        "compare": ["compare", str(evaluated), str(run), "--resamples", "100"],
        "score": ["score", str(run / "predictions-tuned.jsonl"), "--resamples", "100"],
        "runs": ["runs", str(run)],
        "merge": ["merge", *of_run, "--out", str(run.parent / "merged"), *little],
        "gguf": ["gguf", *of_run, "--out", str(run.parent / "x.gguf"), "--type", "f16", *little],
        "certify": ["certify", *of_run, *little],
        "share": ["share", *of_run, "--repo", "me/mine", *ORIGIN, "--license", "mit"],
    }[command]


@contextmanager
def stopped_early() -> Iterator[None]:
    """Let commands end when everything that they read of a run has been read."""
    with ExitStack() as stack:
        for target, result in (
            ("falconer.train.loop._do_steps", "finished"), ("falconer.talk.terminal.talk", None),
            ("falconer.serve_command._run", None), ("falconer.jobs.evaluate_run", None),
            ("falconer.evaluate.report.terminal.show_evaluation", None),
        ):  # fmt: skip
            stack.enter_context(mock.patch(target, lambda *_, _result=result, **__: _result))
        yield


def _wrong(case: Case, result: Result) -> str:
    # share ends with 1 if one of its checks says no.
    is_checked = case.command == "share" and result.code == 1 and "STOP" in result.out
    if result.code not in (0, 2) and not is_checked:
        return f"exit code {result.code}: {result.err[-300:]}"
    if result.code == 2 and (result.err.count("\n") != 1 or not result.err.startswith("falconer: ")):
        last = result.err.splitlines()[-1:]
        if not last or not last[0].startswith("falconer: ") or "Traceback" in result.err:
            return f"more than one line: {result.err[-300:]}"
    is_noticed = result.code == 2 or "damaged" in result.out + result.err
    said = SAID.get((case.file, case.command))
    if said and case.damage not in ("missing", "folder", "pipe", "unreadable"):
        is_noticed |= said in result.err
    if case.damage == "flipped" and case.command in READERS[case.file] and not is_noticed:
        return f"not noticed: {result.out[-100:]}{result.err[-200:]}"
    return ""
