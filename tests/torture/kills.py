"""Kills at random moments and before each file operation of a training and of an evaluation."""

import os
import random
from collections.abc import Callable
from typing import Any

from kill_points import changes
from torture.worlds import FINISHED, KILLED, World, difference

Found = dict[str, Any]


def kill_training(world: World, seed: int, seconds: float) -> Found:
    """Kill a training at a random moment, perhaps its resumes, too, and compare the run that results at last.

    Args:
        seconds: how long an undisturbed training takes.
    """
    dice = random.Random(seed)
    world.start_with(None)
    moments = [dice.uniform(0, 1.05 * seconds)]
    while dice.random() < 0.3:
        moments.append(dice.uniform(0, seconds))
    kills = 0
    for number, moment in enumerate(moments):
        is_run = (world.run / "config.yaml").exists()
        ended = world.command(world.resume if is_run else world.train, kill_after=moment)
        kills += ended.code == KILLED
        if ended.code not in (KILLED, FINISHED):
            return _failure(world, seed, kills, moments[: number + 1], ended.err)
    return _last(world, seed, kills, moments, world.trained)


def kill_evaluation(world: World, seed: int, seconds: float) -> Found:
    """Kill an evaluation at a random moment: its folder has all files of it, or all of the one before."""
    dice = random.Random(seed)
    world.start_with(world.evaluated)
    moment = dice.uniform(0, 1.05 * seconds)
    ended = world.command([*world.evaluate, "evaluate.max_replies=2"], kill_after=moment)
    return _evaluated(world, seed, int(ended.code == KILLED), [moment])


def kill_before(world: World, number: int) -> Found:
    """Kill a training before its file operation of a number, and go on; `ended` says that it had fewer."""
    world.start_with(None)
    killed = world.command(world.train, first=_die_before(number))
    is_killed = killed.code == KILLED
    if not is_killed and killed.code != FINISHED:
        return _failure(world, number, 0, [number], killed.err) | {"ended": True}
    return _last(world, number, int(is_killed), [number], world.trained) | {"ended": not is_killed}


def kill_evaluation_before(world: World, number: int) -> Found:
    """Kill an evaluation before its file operation of a number; `ended` as in `kill_before`."""
    world.start_with(world.evaluated)
    killed = world.command([*world.evaluate, "evaluate.max_replies=2"], first=_die_before(number))
    is_killed = killed.code == KILLED
    return _evaluated(world, number, int(is_killed), [number]) | {"ended": not is_killed}


def _die_before(number: int) -> Callable[[], None]:
    """Return what makes a process kill itself before its file operation of that number in a run's folder."""

    def install() -> None:
        import sys

        left = number

        def count(event: str, about: tuple[Any, ...]) -> None:
            nonlocal left
            if changes(event, about) and "/place/" in str(about[0]):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), 9)

        sys.addaudithook(count)

    return install


def _last(world: World, seed: int, kills: int, moments: list[Any], reference: Any) -> Found:
    """Go on to the end, and compare the run with one that was never killed."""
    is_run = (world.run / "config.yaml").exists()
    ended = world.command(world.resume if is_run else world.train)
    if ended.code != FINISHED:
        return _failure(world, seed, kills, moments, ended.err)
    wrong = difference(world.run, reference)
    return {"seed": seed, "kills": kills, "moments": moments, "wrong": wrong}


def _evaluated(world: World, seed: int, kills: int, moments: list[Any]) -> Found:
    """Read a run whose evaluation was killed: its report must be the one that is there, and about 3 or 2 replies."""
    ended = world.command(["report", "--run", str(world.run)])
    if ended.code != FINISHED:
        return _failure(world, seed, kills, moments, ended.err)
    wrong = ""
    if not difference(world.run, world.evaluated):
        wrong = "" if kills else "a finished evaluation changed nothing"
    else:
        import json

        counts = json.loads((world.run / "metrics.json").read_text())["tuned"]["num_replies"]
        rows = len((world.run / "predictions-tuned.jsonl").read_text().splitlines())
        ablations = list(world.run.glob("predictions-no_*"))
        litter = [path.name for path in world.run.iterdir() if path.name == "evaluation.new"]
        is_old = counts == 3
        if counts != rows or bool(ablations) != is_old or litter:
            wrong = f"mixed: {counts} replies in metrics.json, {rows} in predictions, ablations {ablations}, {litter}"
    return {"seed": seed, "kills": kills, "moments": moments, "wrong": wrong}


def _failure(world: World, seed: int, kills: int, moments: list[Any], err: str) -> Found:
    return {"seed": seed, "kills": kills, "moments": moments, "wrong": f"unreadable: {err.strip()[-500:]}"}
