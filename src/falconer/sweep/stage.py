"""Training and measuring a setting with some seeds, in full or a part of it, and how large the parts are."""

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from falconer.errors import FalconerError
from falconer.sweep.answer import Measured, measured
from falconer.sweep.folder import is_measured, run_name
from falconer.sweep.plan import Plan, Setting
from falconer.sweep.runs import bring_to_end

# Of a last stage, so that something is compared.
FEWEST = 2

# How much of the training is done, as (1, 4) for a quarter; None: all of it.
Part = tuple[int, int] | None


def stages(num_settings: int, keep: int | None) -> list[Part]:
    """Return how much of the training each stage does.

    Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943): a stage keeps the best `1 / keep` of the
    settings, and the next one trains those `keep` times as long. Each stage trains anew, by a learning-rate schedule of
    its own length: in the middle of a long schedule, high rates look worse than they end.
    """
    if keep is None:
        return [None]
    count, num_stages = num_settings, 0
    while count > FEWEST:
        count, num_stages = max(FEWEST, math.ceil(count / keep)), num_stages + 1
    return [*((1, keep**stage) for stage in range(num_stages, 0, -1)), None]


def in_words(part: Part) -> str:
    """Return a part of the training in words; "" for all of it."""
    return f"{part[0]}/{part[1]} of the training" if part else ""


def train_setting(
    folder: Path, plan: Plan, setting: Setting, seeds: Sequence[int], part: Part, labels: Sequence[str],
    console: Console,
) -> Measured | str:  # fmt: skip
    """Train and measure a setting, as far as that has not been done.

    Args:
        labels: what is shown before each seed's run.

    Returns:
        What was measured, or why a run failed.

    Raises:
        FalconerError: the figure that settings are chosen by was not measured, as it will not be of other settings.
    """
    names = [run_name(setting.number, seed, part) for seed in seeds]
    share = part[0] / part[1] if part else 1.0
    failed = ""
    for seed, name, label in zip(seeds, names, labels, strict=True):
        if not is_measured(folder, name):
            console.print(f"{label} {setting.name} train.seed={seed}", markup=False, soft_wrap=True)
        done = bring_to_end(folder, name, plan.config(setting, seed, share), console)
        if done.failed:
            console.print(f"        failed: {done.failed}", markup=False, soft_wrap=True)
            failed = failed or f"{name}: {done.failed}"
    if failed:
        return failed
    found = measured(folder, setting, names, plan.by)
    if len(found.values) < len(seeds):
        raise FalconerError(
            f"{plan.by} was not measured on {found.data}, and can't be chosen by.",
            "Start again with another figure, --by, in another folder, --out.",
        )
    return found
