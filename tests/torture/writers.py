"""The commands that write something, beside train: from which state each starts, and what it may leave behind."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torture.worlds import FINISHED, Ended, World, difference

LITTLE = ("--no-measure", "--conversations", "2")
ORIGIN = ("--base-model", "them/base", "--base-license", "mit", "--dataset", "them/data", "--data-license", "mit")


@dataclass(frozen=True)
class Writer:
    """A command with an earlier result in its place.

    Args:
        earlier: the command that makes that earlier result; nothing for an evaluation, which has one.
        arguments: the command.
        reader: the command that reads the result.
    """

    earlier: tuple[str, ...]
    arguments: tuple[str, ...]
    reader: tuple[str, ...]


def writer(world: World, name: str) -> Writer:
    """Return the writer of a name."""
    run, place = str(world.run), world.place
    merged, gguf, proof, table = (str(place / one) for one in ("merged", "x.gguf", "proof.json", "dialogues.jsonl"))
    report = ("report", "--run", run)
    share = ("share", "--run", run, "--repo", "me/mine", *ORIGIN)
    return {
        "evaluate": Writer((), ("evaluate", "--run", run, "evaluate.max_replies=2"), report),
        "merge": Writer(
            ("merge", "--run", run, "--out", merged, *LITTLE),
            ("merge", "--run", run, "--out", merged, "--dtype", "bf16", *LITTLE),
            (*share, "--what", "merged", "--export", merged, "--license", "mit", "--dry-run"),
        ),
        "gguf": Writer(
            ("gguf", "--run", run, "--out", gguf, "--type", "f16", "--persona", "i sing .", *LITTLE),
            ("gguf", "--run", run, "--out", gguf, "--type", "q8_0", "--persona", "i ski .", *LITTLE),
            (*share, "--what", "gguf", "--export", gguf, "--license", "mit", "--dry-run"),
        ),
        "share": Writer((*share, "--license", "mit"), (*share, "--license", "apache-2.0"), report),
        "certify": Writer(
            ("certify", "--run", run, "--out", proof, *LITTLE),
            ("certify", "--run", run, "--out", proof, "--no-measure", "--conversations", "3"),
            report,
        ),
        "convert": Writer(
            ("data", "convert", str(world.folder / "test.jsonl"), table),
            ("data", "convert", str(world.folder / "train.jsonl"), table),
            ("data", "stats", table),
        ),
    }[name]


WRITERS = ("evaluate", "merge", "gguf", "share", "certify", "convert")


@dataclass(frozen=True)
class Scene:
    """A writer's two states, as copies of the place, and the seconds that it takes from one to the other."""

    name: str
    writer: Writer
    old: Path
    new: Path
    seconds: float

    def start(self, world: World) -> None:
        world.start_as(self.old)

    def act(self, world: World, *, kill_after: float | None = None, first: Callable[[], Any] = lambda: None) -> Ended:
        """Run the command, as `World.command` does."""
        return world.command(list(self.writer.arguments), kill_after=kill_after, first=first)

    def wrong(self, world: World) -> str:
        """Return what is wrong with a place whose writer was stopped; "" if nothing is.

        Whoever reads next must find the old state or the new one; the next writer must come to the new one, and leave
        nothing else behind: no temporary file, no lock.
        """
        read = self._read(world)
        if read.code != FINISHED:
            return f"unreadable: {read.err.strip()[-500:]}"
        from_old, from_new = (difference(world.place, state, hidden=False) for state in (self.old, self.new))
        if from_old and from_new:
            return f"mixed: from the old state, {from_old}; from the new one, {from_new}"
        again = self.act(world)
        if again.code != FINISHED or self._read(world).code != FINISHED:
            return f"the next one fails: {again.err.strip()[-500:]}"
        return difference(world.place, self.new)

    def _read(self, world: World) -> Ended:
        return world.command(list(self.writer.reader))


def make_scene(world: World, name: str) -> Scene:
    """Do what a writer does undisturbed, and keep copies of the place before and after."""
    found = writer(world, name)
    old, new = (world.folder / f"{name}-{state}" for state in ("old", "new"))
    world.start_with(world.evaluated)
    for arguments in (found.earlier, found.reader):
        if arguments:
            _must(world, arguments)
    shutil.copytree(world.place, old)
    seconds = _must(world, found.arguments).seconds
    _must(world, found.reader)
    shutil.copytree(world.place, new)
    assert difference(old, new), f"{name} changes nothing"
    return Scene(name, found, old, new, seconds)


def _must(world: World, arguments: tuple[str, ...]) -> Ended:
    ended = world.command(list(arguments))
    assert ended.code == FINISHED, ended.err
    return ended
