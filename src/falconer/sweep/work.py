"""Carrying out a sweep: a search, all settings with all seeds, or stage by stage with successive halving."""

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from falconer.consoles import counted
from falconer.files.locks import lock_run
from falconer.sweep.answer import Answer, Measured, Outcome, answer, as_markdown, failed_outcome, in_order, left_outcome
from falconer.sweep.folder import begin, is_measured, run_name, write_results
from falconer.sweep.plan import Plan, Setting
from falconer.sweep.proposals import check_optuna, optuna_version
from falconer.sweep.stage import FEWEST, Part, in_words, stages, train_setting
from falconer.sweep.trials import search


def sweep(folder: Path, plan: Plan | None, console: Console) -> Answer:
    """Carry out a sweep, or what is missing of one that was started before, and write its answer.

    Args:
        plan: None to continue the sweep in `folder`.

    Raises:
        FalconerError: see `folder.begin` and `stage.train_setting`; another process works in the folder; a search
            without Optuna.
        KeyboardInterrupt: it was interrupted; the same command continues it.
    """
    if plan is not None and plan.search is not None:
        check_optuna()
    with lock_run(folder):
        plan = begin(folder, plan)
        if plan.search is not None:
            result = answer(plan, *search(folder, plan, console), optuna_version())
        else:
            result = answer(plan, *_all_settings(folder, plan, console))
        write_results(folder, result.to_json(), as_markdown(result))
    return result


def _all_settings(folder: Path, plan: Plan, console: Console) -> tuple[list[Measured], list[Outcome]]:
    """Train every combination; return the settings that were trained to the end, and what became of the others."""
    stopped, failed = list[Outcome](), list[Outcome]()
    settings, found = plan.settings, list[Measured]()
    for part in stages(len(settings), plan.keep):
        found = _stage(folder, plan, settings, part, failed, console)
        if part is None:
            continue
        ordered = in_order(found, plan.by)
        num_kept = max(FEWEST, math.ceil(len(settings) / (plan.keep or 1)))
        stopped += [left_outcome(one, f"stopped after {in_words(part)}") for one in ordered[num_kept:]]
        kept = {one.setting.number for one in ordered[:num_kept]}
        settings = [setting for setting in settings if setting.number in kept]
    return found, [*stopped, *failed]


def _stage(
    folder: Path, plan: Plan, settings: Sequence[Setting], part: Part, failed: list[Outcome], console: Console
) -> list[Measured]:
    """Train and measure some settings with all seeds.

    Args:
        failed: gets the settings of which a run fails.
    """
    names = [run_name(setting.number, seed, part) for setting in settings for seed in plan.seeds]
    num_done = sum(is_measured(folder, name) for name in names)
    what = f"{in_words(part)}: " if part else ""
    console.print(f"{what}{counted(len(names), 'run')}, {num_done} of them done before", soft_wrap=True)
    found = []
    for place, setting in enumerate(settings):
        before = place * len(plan.seeds)
        labels = [f"[{before + number}/{len(names)}]" for number in range(1, len(plan.seeds) + 1)]
        one = train_setting(folder, plan, setting, plan.seeds, part, labels, console)
        if isinstance(one, str):
            failed.append(failed_outcome(setting, one))
        else:
            found.append(one)
    return found
