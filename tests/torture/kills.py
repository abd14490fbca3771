"""Kills at random moments and before each file operation: of a training, and of every other command that writes."""

import mmap
import os
import random
import struct
import sys
from collections.abc import Callable
from typing import Any

from kill_points import changes
from torture.worlds import FINISHED, KILLED, Ended, Training, World, difference
from torture.writers import Scene

Found = dict[str, Any]


def kill_training(world: World, training: Training, dice: random.Random) -> Found:
    """Kill a training at a random moment, perhaps its resumes, too, and compare the run that results at last."""
    world.start_with(training.earlier)
    moments = [dice.uniform(0, 1.05 * training.seconds)]
    while dice.random() < 0.3:
        moments.append(dice.uniform(0, training.seconds))
    kills = 0
    for number, moment in enumerate(moments):
        ended = world.command(training.next, kill_after=moment)
        kills += ended.code == KILLED
        if ended.code not in (KILLED, FINISHED):
            return {
                "stopped": kills,
                "moments": moments[: number + 1],
                "wrong": f"exit code {ended.code}: {ended.err.strip()[-500:]}",
            }
    return {"stopped": kills, "moments": moments, "wrong": finished(world, training)}


def kill_training_before(world: World, training: Training, number: int) -> Found:
    """Kill a training before its file operation of a number, and go on with it."""
    world.start_with(training.earlier)
    killed = world.command(training.begin, first=die_before(number))
    if killed.code not in (KILLED, FINISHED):
        return {"stopped": 0, "wrong": _ended(killed)}
    return {"stopped": int(killed.code == KILLED), "wrong": finished(world, training)}


def kill_writer(world: World, scene: Scene, dice: random.Random) -> Found:
    """Kill a writer at a random moment."""
    scene.start(world)
    moment = dice.uniform(0, 1.05 * scene.seconds)
    killed = scene.act(world, kill_after=moment)
    return {"stopped": int(killed.code == KILLED), "moments": [moment], "wrong": scene.wrong(world)}


def kill_writer_before(world: World, scene: Scene, number: int) -> Found:
    """Kill a writer before its file operation of a number."""
    scene.start(world)
    killed = scene.act(world, first=die_before(number))
    return {"stopped": int(killed.code == KILLED), "wrong": scene.wrong(world)}


def count_operations(world: World, arguments: list[str]) -> int:
    """Return how many file operations a command makes in the place."""
    counted = mmap.mmap(-1, 8)  # shared with the fork

    def note(made: int) -> bool:
        counted[:8] = struct.pack("q", made)
        return False

    ended = world.command(arguments, first=on_operations(note))
    assert ended.code == FINISHED, ended.err
    return int(struct.unpack("q", counted[:8])[0])


def die_before(number: int) -> Callable[[], None]:
    """Return what makes a process kill itself before its file operation of that number, counted from 0."""

    def die(made: int) -> None:
        if made > number:
            os.kill(os.getpid(), 9)

    return on_operations(die)


def on_operations(about_to: Callable[[int], Any]) -> Callable[[], None]:
    """Return what lets a process call a function before each file operation in the place, with its number from 1."""

    def install() -> None:
        made = 0

        def count(event: str, about: tuple[Any, ...]) -> None:
            nonlocal made
            if changes(event, about) and "/place/" in changed_path(event, about):
                made += 1
                about_to(made)

        sys.addaudithook(count)

    return install


def changed_path(event: str, about: tuple[Any, ...]) -> str:
    """Return the path that an audit event is about, also where it is relative to an open folder."""
    name = os.fsdecode(about[0]) if isinstance(about[0], (str, bytes, os.PathLike)) else str(about[0])
    if event in ("os.remove", "os.rmdir") and isinstance(about[1], int) and about[1] >= 0:
        return f"{os.readlink(f'/proc/self/fd/{about[1]}')}/{name}"
    return name


def finished(world: World, training: Training | None = None) -> str:
    """Go on with a training to its end; return how the run differs from one that was never disturbed.

    Args:
        training: None for `falconer train`.
    """
    training = training or world.training
    ended = world.command(training.next)
    return difference(training.run, training.whole) if ended.code == FINISHED else f"lost: {ended.err.strip()[-500:]}"


def _ended(ended: Ended) -> str:
    return f"exit code {ended.code}: {ended.err.strip()[-500:]}"
