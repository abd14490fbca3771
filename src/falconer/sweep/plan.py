"""What a sweep trains: which settings with which seeds, checked before the first run starts."""

import itertools
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, NoneType
from typing import Any

from falconer.config import MAX_SEED, Config, differences, from_tree, load
from falconer.errors import FalconerError, nearest
from falconer.evaluate.report.score_table import METRICS
from falconer.evaluate.text.compare import TESTED

# What all runs must have in common, or their figures are not of the same turns.
_FIXED: Mapping[str, str] = MappingProxyType({
    "train.seed": "Give the number of seeds with --seeds.",
    "data.text": "The gold replies of raw and natural text differ; train one run each, and read docs/evaluation.md.",
    "data.valid": "All runs must be validated on the same dialogues.",
    "data.test": "A sweep does not look at test dialogues.",
    "data.format": "All runs must be validated on the same dialogues.",
    "data.on_bad_row": "All runs must be validated on the same dialogues.",
    "data.valid_share": "All runs must be validated on the same dialogues.",
    "data.max_gib": "It is a limit, and changes no figure.",
})  # fmt: skip
_MOST_RUNS = 10_000


@dataclass(frozen=True, slots=True)
class Setting:
    """One combination of values.

    Args:
        number: its place in the sweep, from 1.
        values: by the key, as section.key, as text.
    """

    number: int
    values: Mapping[str, str]

    @property
    def name(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.values.items())


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a sweep does, so that it can be continued.

    Args:
        base: the settings that all runs share, as section.key=value, where they are not the defaults.
        axes: the values of each key that varies, in the order given.
        seeds: of each setting.
        by: the figure that the best setting is chosen by, a field of `Score`.
        keep: each stage of successive halving keeps one in so many settings; None: all settings are trained in full.
        resamples: of the bootstrap.
    """

    base: tuple[str, ...]
    axes: Mapping[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    by: str
    keep: int | None
    resamples: int

    @property
    def settings(self) -> list[Setting]:
        """The combinations of all values; the last key varies fastest."""
        return [
            Setting(number, dict(zip(self.axes, values, strict=True)))
            for number, values in enumerate(itertools.product(*self.axes.values()), start=1)
        ]

    def config(self, setting: Setting, seed: int, share: float = 1) -> Config:
        """Return the configuration of a run.

        Args:
            share: of its training that is done, by a schedule of that length.
        """
        values = [f"{key}={value}" for key, value in setting.values.items()]
        config = load(None, [*self.base, *values, f"train.seed={seed}"])
        if share == 1:
            return config
        train = config.train
        steps = None if train.max_steps is None else max(1, round(train.max_steps * share))
        return load(None, [f"train.epochs={train.epochs * share}", f"train.max_steps={_text(steps)}"], base=config)


def make_plan(
    preset: str | None, overrides: Sequence[str], *, num_seeds: int, by: str, keep: int | None, resamples: int
) -> Plan:
    """Read a sweep from the command line.

    A key with several values varies: `train.learning_rate=1e-4,2e-4`. A key whose value is free text is given once for
    each value, since text may contain commas: `lora.targets=all-linear lora.targets=q_proj,v_proj`.

    Raises:
        FalconerError: see `config.load`; a key that may not vary; no key varies; a value twice; an unknown figure.
    """
    given: dict[str, list[str]] = {}
    for override in overrides:
        load(preset, [override.partition(",")[0]] if _splits(override) else [override])  # tells what is wrong with it
        key, _, value = override.partition("=")
        given.setdefault(key.strip(), []).extend(value.split(",") if _splits(override) else [value])
    axes = {key: tuple(values) for key, values in given.items() if len(values) > 1}
    constant = [f"{key}={values[0]}" for key, values in given.items() if len(values) == 1]
    base = load(preset, constant)
    _check(axes, base, by)
    seeds = tuple((base.train.seed + number) % (MAX_SEED + 1) for number in range(num_seeds))
    plan = Plan(tuple(settings_of(base)), axes, seeds, by, keep, resamples)
    num_runs = len(seeds)
    for values in axes.values():
        num_runs *= len(values)
    if num_runs > _MOST_RUNS:
        raise FalconerError(f"These are {num_runs:,} runs.", f"Sweep over at most {_MOST_RUNS:,}.")
    for setting in plan.settings:
        plan.config(setting, seeds[0])  # each combination is allowed
    return plan


def settings_of(config: Config) -> list[str]:
    """Return the overrides that make a configuration of the defaults."""
    tree = config.model_dump()
    keys = differences(Config(), config)
    return [f"{key}={_text(tree[key.partition('.')[0]][key.partition('.')[2]])}" for key in keys]


def _check(axes: Mapping[str, tuple[str, ...]], base: Config, by: str) -> None:
    if not axes:
        raise FalconerError(
            "No key has several values, so there is nothing to compare.",
            "Give one, for example: falconer sweep train.learning_rate=1e-4,2e-4,4e-4",
        )
    for key, values in axes.items():
        section = key.partition(".")[0]
        if key in _FIXED or section == "evaluate" or (key == "data.train" and base.data.valid is None):
            why = _FIXED.get(key, "All runs must be measured alike; with data.valid=FILE, data.train may vary.")
            raise FalconerError(f"{key} can't vary in a sweep.", why)
        read = [str(_value(key, value)) for value in values]
        if len(set(read)) < len(read):
            twice = next(value for value in read if read.count(value) > 1)
            raise FalconerError(f"{key} has the value {twice} twice.", "Give each value once.")
    if by not in TESTED:
        raise FalconerError(f"--by {by} is not a figure that is tested.", nearest(by, TESTED))


def _value(key: str, value: str) -> Any:
    """Return a value as the configuration has it, so that 1e-4 and 0.0001 are one."""
    section, _, name = key.partition(".")
    return getattr(getattr(from_tree({section: {name: None if value == "null" else value}}), section), name)


def _splits(override: str) -> bool:
    """Say whether commas in an override separate values: not where the value is free text."""
    section, _, name = override.partition("=")[0].strip().partition(".")
    annotation = Config.model_fields.get(section)
    field = annotation.annotation.model_fields.get(name) if annotation else None  # type: ignore[union-attr]
    kinds = set(typing.get_args(field.annotation) or (field.annotation,)) - {NoneType} if field else {str}
    return str not in kinds


def _text(value: object) -> str:
    return "null" if value is None else str(value)


def better(by: str, one: float, other: float) -> bool:
    """Say whether a value of a figure is better than another one."""
    is_lower = next(metric.better for metric in METRICS if metric.key == by) == "lower"
    return one < other if is_lower else one > other
