"""What a sweep trains: which settings with which seeds, checked before the first run starts."""

import itertools
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, NoneType
from typing import Any

from falconer.config import MAX_SEED, Config, differences, from_tree, load
from falconer.errors import FalconerError, nearest
from falconer.evaluate.report.score_table import METRICS
from falconer.evaluate.text.compare import TESTED
from falconer.sweep.ranges import Range, ends_of, is_range, read_range

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
# Of which --halving trains a part.
_LENGTH = frozenset(("train.epochs", "train.max_steps"))
_TRIALS, _FINALISTS = 20, 3


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
class Search:
    """What makes a sweep a search, in which not all combinations are trained.

    Args:
        ranges: by the key; the keys with a list of values are in `Plan.axes`.
        num_trials: settings that are tried, with the first seed.
        num_finalists: so many of them, the best ones, are trained with all seeds and compared.
        seed: of what is proposed.
    """

    ranges: Mapping[str, Range]
    num_trials: int
    num_finalists: int
    seed: int


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
        search: None if all combinations are trained.
    """

    base: tuple[str, ...]
    axes: Mapping[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    by: str
    keep: int | None
    resamples: int
    search: Search | None = None

    @property
    def keys(self) -> list[str]:
        """The keys that vary."""
        return [*self.axes, *(self.search.ranges if self.search else ())]

    @property
    def settings(self) -> list[Setting]:
        """The combinations of all values, where there is no search; the last key varies fastest."""
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
    preset: str | None, overrides: Sequence[str], *, num_seeds: int, by: str, keep: int | None, resamples: int,
    num_trials: int | None = None, num_finalists: int | None = None,
) -> Plan:  # fmt: skip
    """Read a sweep from the command line.

    A key with several values varies: `train.learning_rate=1e-4,2e-4`. A key whose value is free text is given once for
    each value, since text may contain commas: `lora.targets=all-linear lora.targets=q_proj,v_proj`. A range, such as
    `train.learning_rate=1e-4..1e-2:log`, makes it a search, and so does a number of trials.

    Raises:
        FalconerError: see `config.load` and `read_range`; a key that may not vary; no key varies; a value twice; an
            unknown figure; more than can be trained, or than there is to search.
    """
    given: dict[str, list[str]] = {}
    for override in overrides:
        key, _, value = override.partition("=")
        values = value.split(",") if _splits(key) else [value]
        for one in ends_of(values) if _is_ranged(key, values) else values[:1]:
            load(preset, [f"{key}={one}" if "=" in override else override])  # tells what is wrong with it
        given.setdefault(key.strip(), []).extend(values)
    ranges = {
        key: read_range(key, values, int in _kinds(key)) for key, values in given.items() if _is_ranged(key, values)
    }
    axes = {key: tuple(values) for key, values in given.items() if len(values) > 1 and key not in ranges}
    varying = {*axes, *ranges}
    base = load(preset, [f"{key}={values[0]}" for key, values in given.items() if key not in varying])
    _check(axes, ranges, base, by)
    seeds = tuple((base.train.seed + number) % (MAX_SEED + 1) for number in range(num_seeds))
    search = None
    if ranges or num_trials is not None:
        search = Search(ranges, num_trials or _TRIALS, num_finalists or _FINALISTS, seeds[0])
    elif num_finalists is not None:
        raise FalconerError("--finalists is for a search.", "Give a range, such as lora.r=8..64, or --trials.")
    plan = Plan(tuple(settings_of(base)), axes, seeds, by, keep, resamples, search)
    _check_size(plan)
    if search is None:
        for setting in plan.settings:
            plan.config(setting, seeds[0])  # each combination is allowed
    return plan


def _check_size(plan: Plan) -> None:
    num_settings = math.prod(len(values) for values in plan.axes.values())
    if plan.search is None:
        if num_settings * len(plan.seeds) > _MOST_RUNS:
            raise FalconerError(
                f"These are {num_settings * len(plan.seeds):,} runs.",
                f"Sweep over at most {_MOST_RUNS:,}, or try some of the settings: --trials {_TRIALS}.",
            )
        return
    there_are = num_settings * math.prod(one.num_values for one in plan.search.ranges.values())
    if there_are <= plan.search.num_trials:
        raise FalconerError(
            f"There are {there_are:,.0f} settings, and a search of {plan.search.num_trials} trials tries more.",
            "Give --trials a smaller number; or give lists of values instead of ranges, and no --trials: all settings "
            "are trained then.",
        )
    if plan.keep is not None and (lengths := _LENGTH.intersection(plan.keys)):
        raise FalconerError(
            f"{' and '.join(sorted(lengths))} can't vary in a search with --halving, which trains parts of it.",
            "Leave out --halving, or set the length of the trainings for all.",
        )


def settings_of(config: Config) -> list[str]:
    """Return the overrides that make a configuration of the defaults."""
    tree = config.model_dump()
    keys = differences(Config(), config)
    return [f"{key}={_text(tree[key.partition('.')[0]][key.partition('.')[2]])}" for key in keys]


def _check(axes: Mapping[str, tuple[str, ...]], ranges: Mapping[str, Range], base: Config, by: str) -> None:
    if not axes and not ranges:
        raise FalconerError(
            "No key has several values, so there is nothing to compare.",
            "Give one, for example: falconer sweep train.learning_rate=1e-4,2e-4,4e-4",
        )
    for key in (*axes, *ranges):
        section = key.partition(".")[0]
        if key in _FIXED or section == "evaluate" or (key == "data.train" and base.data.valid is None):
            why = _FIXED.get(key, "All runs must be measured alike; with data.valid=FILE, data.train may vary.")
            raise FalconerError(f"{key} can't vary in a sweep.", why)
    for key, values in axes.items():
        read = [str(read_value(key, value)) for value in values]
        if len(set(read)) < len(read):
            twice = next(value for value in read if read.count(value) > 1)
            raise FalconerError(f"{key} has the value {twice} twice.", "Give each value once.")
    if by not in TESTED:
        raise FalconerError(f"--by {by} is not a figure that is tested.", nearest(by, TESTED))


def read_value(key: str, value: str) -> Any:
    """Return a value as the configuration has it, so that 1e-4 and 0.0001 are one."""
    section, _, name = key.partition(".")
    return value_of(from_tree({section: {name: None if value == "null" else value}}), key)


def value_of(config: Config, key: str) -> Any:
    """Return the value of a key, which is given as section.key."""
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def _splits(key: str) -> bool:
    """Say whether commas in the values of a key separate values: not where the value is free text."""
    return str not in _kinds(key)


def _is_ranged(key: str, values: Sequence[str]) -> bool:
    """Say whether a key is a number, and something that it is given is written as a range."""
    return bool({int, float} & _kinds(key)) and any(map(is_range, values))


def _kinds(key: str) -> set[Any]:
    """Return the types of a key's values besides null; those of text for a key that does not exist."""
    section, _, name = key.strip().partition(".")
    annotation = Config.model_fields.get(section)
    field = annotation.annotation.model_fields.get(name) if annotation else None  # type: ignore[union-attr]
    return set(typing.get_args(field.annotation) or (field.annotation,)) - {NoneType} if field else {str}


def _text(value: object) -> str:
    return "null" if value is None else str(value)


def better(by: str, one: float, other: float) -> bool:
    """Say whether a value of a figure is better than another one."""
    is_lower = next(metric.better for metric in METRICS if metric.key == by) == "lower"
    return one < other if is_lower else one > other
