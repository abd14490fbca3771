"""Carrying out a sweep: all settings with all seeds, or stage by stage where successive halving stops some of them."""

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from falconer.consoles import counted
from falconer.files.locks import lock_run
from falconer.sweep.answer import Answer, Measured, answer, as_markdown, in_order, measured
from falconer.sweep.folder import begin, is_measured, run_name, write_results
from falconer.sweep.plan import Plan, Setting
from falconer.sweep.runs import bring_to_end

# Of a last stage, so that something is compared.
_FEWEST = 2


def sweep(folder: Path, plan: Plan | None, console: Console) -> Answer:
    """Carry out a sweep, or what is missing of one that was started before, and write its answer.

    Args:
        plan: None to continue the sweep in `folder`.

    Raises:
        FalconerError: see `folder.begin`; another process works in the folder.
        KeyboardInterrupt: it was interrupted; the same command continues it.
    """
    with lock_run(folder):
        plan = begin(folder, plan)
        stopped: dict[int, tuple[Measured, str]] = {}
        failed: dict[int, str] = {}
        settings, found = plan.settings, list[Measured]()
        for part in stages(len(settings), plan.keep):
            found = _stage(folder, plan, settings, part, failed, console)
            if part is None:
                continue
            ordered = in_order(found, plan.by)
            num_kept = max(_FEWEST, math.ceil(len(settings) / (plan.keep or 1)))
            for one in ordered[num_kept:]:
                stopped[one.setting.number] = (one, f"after {part[0]}/{part[1]} of the training")
            kept = {one.setting.number for one in ordered[:num_kept]}
            settings = [setting for setting in settings if setting.number in kept]
        result = answer(plan, found, stopped, failed)
        write_results(folder, result.to_json(), as_markdown(result))
    return result


def stages(num_settings: int, keep: int | None) -> list[tuple[int, int] | None]:
    """Return how much of the training each stage does, as parts of it; None is all of it.

    Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943): a stage keeps the best `1 / keep` of the
    settings, and the next one trains those `keep` times as long. Each stage trains anew, by a learning-rate schedule of
    its own length: in the middle of a long schedule, high rates look worse than they end.
    """
    if keep is None:
        return [None]
    count, num_stages = num_settings, 0
    while count > _FEWEST:
        count, num_stages = max(_FEWEST, math.ceil(count / keep)), num_stages + 1
    return [*((1, keep**stage) for stage in range(num_stages, 0, -1)), None]


def _stage(
    folder: Path, plan: Plan, settings: Sequence[Setting], part: tuple[int, int] | None, failed: dict[int, str],
    console: Console,
) -> list[Measured]:  # fmt: skip
    """Train and measure some settings with all seeds.

    Args:
        failed: gets the settings of which a run fails, or lacks the figure that is chosen by.
    """
    share = part[0] / part[1] if part else 1.0
    named = [(setting, seed, run_name(setting.number, seed, part)) for setting in settings for seed in plan.seeds]
    num_done = sum(is_measured(folder, name) for _, _, name in named)
    what = f"{part[0]}/{part[1]} of the training: " if part else ""
    console.print(f"{what}{counted(len(named), 'run')}, {num_done} of them done before", soft_wrap=True)
    for number, (setting, seed, name) in enumerate(named, start=1):
        if not is_measured(folder, name):
            said = f"[{number}/{len(named)}] {setting.name} train.seed={seed}"
            console.print(said, markup=False, soft_wrap=True)
        done = bring_to_end(folder, name, plan.config(setting, seed, share), console)
        if done.failed:
            console.print(f"        failed: {done.failed}", markup=False, soft_wrap=True)
            failed.setdefault(setting.number, f"{name}: {done.failed}")
    found = []
    for setting in settings:
        if setting.number in failed:
            continue
        one = measured(folder, setting, [name for other, _, name in named if other is setting], plan.by)
        if len(one.values) == len(plan.seeds):
            found.append(one)
        else:
            failed[setting.number] = f"{plan.by} was not measured"
    return found
