"""The parts of the campaign: how many cases each has, and running one, which the seed and its number determine.

A worker is a process with a small world of its own. What a part needs is made when its first case comes.
"""

import random
import shutil
from collections.abc import Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torture import damages, failing, interrupts, kills, limits, power
from torture.mutated_inputs import Readers, mutated_input
from torture.worlds import Training, World
from torture.writers import WRITERS, Scene, make_scene

Case = dict[str, Any]
COMMANDS = ("train", *WRITERS)
INTERRUPTED = ("train", "chat", "evaluate", "share", "merge")
# How many cases a part has by default whose cases are random; the others have as many as there are.
AIMS: Mapping[str, int] = MappingProxyType({
    "kill:train": 1100, "kill:prefer": 300, **{f"kill:{name}": 300 for name in WRITERS},
    **{f"limit:{name}": 200 for name in COMMANDS},
    "input:data": 100_000, "input:shown": 2_000, "input:commands": 1_000, "input:predictions": 20_000,
    "input:presets": 20_000, "input:settings": 20_000, "input:records": 20_000, "input:adapters": 20_000,
    "input:models": 2_000, **{f"interrupt:{name}": 200 for name in INTERRUPTED},
})  # fmt: skip
EXHAUSTIVE = (
    *(f"{fault}:{name}" for fault in ("operation", "power", "disk") for name in COMMANDS), "operation:prefer", "damage"
)  # fmt: skip
PARTS = (*AIMS, *EXHAUSTIVE)


def left_out() -> tuple[str, ...]:
    """Return the parts whose packages are not installed."""
    return tuple(part for part in PARTS if part.endswith(":gguf") and find_spec("gguf") is None)


class Worker:
    """A process that runs cases, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        load_libraries(folder)
        self._scenes: dict[str, Scene] = {}
        self._lengths: dict[str, float] = {}
        self.folder = folder
        self.world = World(folder / "world")
        self.world.make_references()
        _add_chat(self.world.evaluated)

    def number_of(self, part: str) -> int:
        """Return how many cases a part has; of one whose cases are random, how many are tried by default."""
        if part in AIMS:
            return AIMS[part]
        if part == "damage":
            return len(damages.cases(0))
        fault, _, name = part.partition(":")
        if name == "prefer":
            self.world.start_with(self.preference.earlier)
            return kills.count_operations(self.world, self.preference.begin) + 1
        if name == "train":
            self.world.start_with(None)
            arguments, command = self.world.train, lambda first: self.world.command(self.world.train, first=first)
        else:
            scene = self.scene(name)
            scene.start(self.world)
            arguments, command = list(scene.writer.arguments), lambda first: scene.act(self.world, first=first)
        if fault == "power":
            return len(power.MODELS) * (power.count_syncs(self.world, command) + 1)
        operations = kills.count_operations(self.world, arguments) + 1
        return operations if fault == "operation" else operations * len(failing.ERRORS)

    def run(self, part: str, number: int, seed: int, failures: Path) -> Case:
        """Run the case of a number; a case that fails is saved with the place as it was found."""
        into = failures / f"{part.replace(':', '-')}-{seed}-{number}"
        fault, _, name = part.partition(":")
        dice = random.Random(f"{seed} {part} {number}")
        if fault == "input":
            found = mutated_input(self.readers, name, dice, into)
        else:
            found = self._case(fault, name, number, seed, dice, into)
            if found["wrong"] and fault != "damage":
                shutil.copytree(self.world.place, into / "found", symlinks=True, dirs_exist_ok=True)
        return {"part": part, "seed": seed, "number": number} | found

    def _case(self, fault: str, name: str, number: int, seed: int, dice: random.Random, failing: Path) -> Case:
        world = self.world
        if fault == "damage":
            case = damages.cases(seed)[number]
            wrong = damages.examine(case, world.evaluated, world.folder / "falcon", world.folder / "case", failing)
            return {**case.__dict__, "wrong": wrong}
        if fault == "interrupt":
            return self._interrupt(name, dice)
        if name == "prefer":
            if fault == "kill":
                return kills.kill_training(world, self.preference, dice)
            return kills.kill_training_before(world, self.preference, number)
        return self._train(fault, number, dice) if name == "train" else self._write(fault, name, number, dice)

    def _train(self, fault: str, number: int, dice: random.Random) -> Case:
        if fault == "kill":
            return kills.kill_training(self.world, self.world.training, dice)
        if fault == "limit":
            return limits.limited_training(self.world, dice)
        if fault == "operation":
            return kills.kill_training_before(self.world, self.world.training, number)
        if fault == "power":
            where, model = divmod(number, len(power.MODELS))
            return power.lose_power(self.world, power.MODELS[model], where)
        where, error = divmod(number, len(failing.ERRORS))
        return failing.fail_training(self.world, where, failing.ERRORS[error])

    def _write(self, fault: str, name: str, number: int, dice: random.Random) -> Case:
        scene = self.scene(name)
        if fault == "kill":
            return kills.kill_writer(self.world, scene, dice)
        if fault == "limit":
            return limits.limited_writer(self.world, scene, dice)
        if fault == "operation":
            return kills.kill_writer_before(self.world, scene, number)
        if fault == "power":
            where, model = divmod(number, len(power.MODELS))
            return power.lose_power_writing(self.world, scene, power.MODELS[model], where)
        where, error = divmod(number, len(failing.ERRORS))
        return failing.fail_writer(self.world, scene, where, failing.ERRORS[error])

    def _interrupt(self, name: str, dice: random.Random) -> Case:
        world = self.world
        if name == "chat":
            return interrupts.interrupt_chat(world, self._length(name), dice)
        if name == "train":
            return interrupts.interrupt_training(world, self._length(name), dice)
        return interrupts.interrupt_writer(world, self.scene(name), self._length(name), dice)

    def scene(self, name: str) -> Scene:
        """Return the scene of a writer, which is made once."""
        if name not in self._scenes:
            self._scenes[name] = make_scene(self.world, name)
        return self._scenes[name]

    @cached_property
    def preference(self) -> Training:
        """A preference training, which is carried out once."""
        return self.world.preference()

    def _length(self, name: str) -> float:
        """Return the seconds that a command takes in a terminal."""
        if name not in self._lengths:
            world = self.world
            if name in ("train", "chat"):
                world.start_with(None if name == "train" else world.evaluated)
                arguments = world.train if name == "train" else ["chat", "--run", str(world.run)]
            else:
                scene = self.scene(name)
                scene.start(world)
                arguments = list(scene.writer.arguments)
            self._lengths[name] = interrupts.undisturbed_s(arguments)
        return self._lengths[name]

    @cached_property
    def readers(self) -> Readers:
        """What reads mutated inputs."""
        return Readers(self.folder / "inputs", self.world.evaluated, self.world.folder / "falcon")


def load_libraries(folder: Path) -> None:
    """Load what commands import, so that forks find it loaded."""
    import torch

    torch.set_num_threads(1)
    import falconer.data.language
    import falconer.evaluate.report.terminal
    import falconer.jobs
    import falconer.model.export.merge
    import falconer.preference
    import falconer.quickstart
    import falconer.share.certificate_making
    import falconer.share.plan
    import falconer.train.events
    import falconer.train.loop  # noqa: F401
    from falconer.curves import write_loss_curve
    from falconer.runtime import quiet_libraries

    quiet_libraries()
    folder.mkdir(parents=True)
    falconer.data.language.resolve("auto", ["i like my dogs and cats very much"])
    write_loss_curve([{"step": 1, "loss": 1.0, "lr": 1.0, "epoch": 1.0}], folder / "curve.png")


def _add_chat(run: Path) -> None:
    from falconer.run.folder import Chat, adapter_hashes, write_chat

    write_chat(run, Chat(("i sing",), (("hi", "ho"),), adapter_hashes(run)))
