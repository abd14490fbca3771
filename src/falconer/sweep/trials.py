"""Carrying out a search: trial after trial with one seed, then the best of them with all seeds."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from falconer.consoles import counted
from falconer.errors import FalconerError
from falconer.run.folder import is_run, read_config
from falconer.sweep.answer import Measured, Outcome, failed_outcome, in_order, left_outcome
from falconer.sweep.folder import run_folder, run_name
from falconer.sweep.plan import Plan, Setting, read_value, value_of
from falconer.sweep.proposals import Proposals, Trial
from falconer.sweep.stage import Part, in_words, stages, train_setting


def search(folder: Path, plan: Plan, console: Console) -> tuple[list[Measured], list[Outcome]]:
    """Try settings, and train the best ones with all seeds; what is there is not done again.

    Returns:
        The finalists, and what became of the other settings.

    Raises:
        FalconerError: Optuna is missing; a run's folder is not of this search; see `stage.train_setting`.
    """
    assert plan.search is not None
    num_trials, num_finalists = plan.search.num_trials, plan.search.num_finalists
    parts, proposals = stages(num_trials, plan.keep), Proposals(plan)
    complete, stopped, failed = list[Measured](), list[Outcome](), list[Outcome]()
    for number in range(1, num_trials + 1):
        run = run_folder(folder, run_name(number, plan.seeds[0], parts[0]))
        values = _values(plan, run) if is_run(run) else proposals.propose(number)
        label = f"[{number}/{num_trials}]"
        one = _try(folder, plan, Setting(number, values), proposals.begin(values), parts, label, console)
        if isinstance(one, Measured):
            complete.append(one)
        else:
            (failed if one.has_failed else stopped).append(one)
    ordered = in_order(complete, plan.by)
    stopped = [*(left_outcome(one, "no finalist") for one in ordered[num_finalists:]), *stopped]
    chosen, found = ordered[:num_finalists], list[Measured]()
    console.print(f"{counted(len(chosen), 'finalist')}, with {counted(len(plan.seeds), 'seed')}", soft_wrap=True)
    for one in chosen:
        labels = ["        "] * len(plan.seeds)
        with_all = train_setting(folder, plan, one.setting, plan.seeds, None, labels, console)
        if isinstance(with_all, str):
            failed.append(failed_outcome(one.setting, with_all))
        else:
            found.append(with_all)
    return found, [*stopped, *failed]


def _try(
    folder: Path, plan: Plan, setting: Setting, trial: Trial, parts: Sequence[Part], label: str, console: Console
) -> Measured | Outcome:
    """Train a setting with the first seed, part by part until it is stopped; return what became of it."""
    seed = plan.seeds[0]
    for part, later in itertools.pairwise(parts):
        one = train_setting(folder, plan, setting, [seed], part, [f"{label} {in_words(part)}:"], console)
        if isinstance(one, str):
            trial.fail()
            return failed_outcome(setting, one)
        # A trial that has gone on once does so again, even if a trial before it was repeated and ended otherwise.
        if trial.is_stopped_by(*one.values) and not is_run(run_folder(folder, run_name(setting.number, seed, later))):
            trial.stop()
            return left_outcome(one, f"stopped after {in_words(part)}")
    one = train_setting(folder, plan, setting, [seed], parts[-1], [label], console)
    if isinstance(one, str):
        trial.fail()
        return failed_outcome(setting, one)
    trial.finish(*one.values)
    return one


def _values(plan: Plan, run: Path) -> dict[str, str]:
    """Return the setting of a trial that was begun before, from its run's folder.

    Raises:
        FalconerError: the run was trained with a setting that is none of this search.
    """
    assert plan.search is not None
    config, found = read_config(run), {}
    for key in plan.keys:
        value = value_of(config, key)
        if key in plan.axes:
            texts = [text for text in plan.axes[key] if read_value(key, text) == value]
        else:
            texts = [plan.search.ranges[key].text(value)] if value in plan.search.ranges[key] else []
        if not texts:
            raise FalconerError(
                f"'{run}' was trained with {key}={value}, which this search does not try.",
                "Restore the folder as the search wrote it, or remove it: the search then tries another setting.",
            )
        found[key] = texts[0]
    return found
