"""The answer of a sweep: figures of each setting over its seeds, paired tests against the best one, and verdicts."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from falconer.consoles import counted
from falconer.evaluate.measure import Evaluated
from falconer.evaluate.report.score_table import METRICS, format_value
from falconer.evaluate.text.bootstrap import SEED, enough_for, intervals
from falconer.evaluate.text.compare import TESTED, aligned, compare_systems
from falconer.evaluate.text.systems import System
from falconer.records import Score
from falconer.run.metrics import Difference, Intervals
from falconer.sweep.folder import read_measured
from falconer.sweep.plan import Plan, Setting, better

_FAILED = "failed: "


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of one setting.

    Args:
        runs: the names of its runs.
        values: the figure that is chosen by, of each seed; empty where a run failed.
        score, intervals: of all seeds together; None where it was not trained to the end.
        tests: against the best setting, corrected for all settings: the first is of the figure that is chosen by.
        verdict: in words.
    """

    setting: Setting
    runs: tuple[str, ...]
    values: tuple[float, ...]
    score: Score | None
    intervals: Intervals | None
    tests: tuple[Difference, ...]
    verdict: str

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def has_failed(self) -> bool:
        """Whether a run of it could not be trained or measured."""
        return self.verdict.startswith(_FAILED)


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything that a sweep says; `outcomes` has the best setting first, `data` says on what it was measured.

    Args:
        optuna: the version that proposed the settings of a search; "" where all combinations were trained.
    """

    plan: Plan
    data: str
    outcomes: tuple[Outcome, ...]
    optuna: str = ""

    def to_json(self) -> dict[str, Any]:
        rows = []
        for one in self.outcomes:
            row = asdict(one) | {"mean": one.mean, "spread": one.spread, "settings": dict(one.setting.values)}
            del row["setting"]
            rows.append(row)
        return {"plan": asdict(self.plan), "optuna": self.optuna, "data": self.data, "settings": rows}


@dataclass(frozen=True, slots=True)
class Measured:
    """A setting whose runs have all been measured; `values` of the figure that is chosen by, for each seed."""

    setting: Setting
    runs: tuple[str, ...]
    system: System
    values: tuple[float, ...]
    data: str


def measured(sweep: Path, setting: Setting, runs: Sequence[str], by: str) -> Measured:
    """Read what was measured of a setting's runs, and put its seeds together.

    Replies of all seeds to a turn belong to one dialogue, so they are resampled together.

    Raises:
        FalconerError: a file is damaged, or the figure was not measured.
    """
    found = [read_measured(sweep, name) for name in runs]
    language, data = found[0][1].language, found[0][1].data
    each = [getattr(one.as_system("", language).score, by) for one, _ in found]
    whole = Evaluated(
        [row for one, _ in found for row in one.predictions],
        [likelihood for one, _ in found for likelihood in one.likelihoods],
        [name for one, _ in found for name in one.dialogue_ids],
    )
    values = tuple(value for value in each if value is not None)
    return Measured(setting, tuple(runs), whole.as_system(setting.name, language), values, data)


def left_outcome(one: Measured, why: str) -> Outcome:
    """Return the outcome of a setting that was measured, but is not compared with the best one."""
    return Outcome(one.setting, one.runs, one.values, None, None, (), why)


def failed_outcome(setting: Setting, why: str) -> Outcome:
    """Return the outcome of a setting of which a run could not be trained or measured."""
    return Outcome(setting, (), (), None, None, (), f"{_FAILED}{why}")


def answer(plan: Plan, found: Sequence[Measured], others: Sequence[Outcome], optuna: str = "") -> Answer:
    """Return the answer of a sweep.

    Args:
        found: the settings that were trained to the end, with all seeds.
        others: what became of all others.
        optuna: see `Answer`.
    """
    by, ordered = plan.by, in_order(found, plan.by)
    outcomes = []
    if ordered:
        systems = aligned([one.system for one in ordered])
        chosen = compare_systems(systems, plan.resamples, SEED, metrics=[by])
        rest = compare_systems(systems, plan.resamples, SEED, metrics=[key for key in TESTED if key != by])
        for number, (one, system) in enumerate(zip(ordered, systems, strict=True)):
            tests = (*chosen.get(system.name, ()), *rest.get(system.name, ()))
            verdict = _verdict(ordered[0], one, tests, by) if number else "best"
            limits = intervals(system.blocks, plan.resamples, SEED)
            outcomes.append(Outcome(one.setting, one.runs, one.values, system.score, limits, tests, verdict))
    return Answer(plan, ordered[0].data if ordered else "", (*outcomes, *others), optuna)


def in_order(found: Sequence[Measured], by: str) -> list[Measured]:
    """Return settings by the mean over their seeds, the best first."""
    sign = 1 if better(by, 0, 1) else -1
    return sorted(found, key=lambda one: sign * statistics.fmean(one.values))


def _verdict(best: Measured, one: Measured, tests: Sequence[Difference], by: str) -> str:
    test = next((test for test in tests if test.metric == by), None)
    if test is None or test.p_holm is None:
        return "not tested"
    pairs = zip(best.values, one.values, strict=True)
    num_worse = sum(better(by, first, other) for first, other in pairs)
    seeds = f"with {num_worse} of {len(one.values)} seeds" if len(one.values) > 1 else "with its one seed"
    if test.is_significant and num_worse == len(one.values):
        return f"worse, {seeds}"
    return f"no difference shown; worse {seeds}"


def as_markdown(found: Answer) -> list[str]:
    """Return the answer as the lines of a Markdown file."""
    plan = found.plan
    metric = next(metric for metric in METRICS if metric.key == plan.by)
    other = [key for key in ("word_ppl", "bleu", "rouge_l", "f1", "hits_1") if key != plan.by]
    labels = {one.key: one for one in METRICS}
    keys = plan.keys
    shown = [key for key in other if any(getattr(one.score, key, None) is not None for one in found.outcomes)]
    titles = [*keys, f"{metric.label}, mean", "over seeds", *(labels[key].label for key in shown), "p (Holm)", "result"]
    lines = ["# Sweep", "", *_about(found), "", f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for one in found.outcomes:
        test = next((test for test in one.tests if test.metric == plan.by), None)
        cells = [one.setting.values[key] for key in keys]
        cells += [format_value(one.mean, metric.digits), f"± {format_value(one.spread, metric.digits)}"]
        cells += [format_value(getattr(one.score, key, None), labels[key].digits) for key in shown]
        cells += ["" if test is None or test.p_holm is None else f"{test.p_holm:.3f}", one.verdict]
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return [*lines, "", *_conclusion(found, metric.label)]


def _about(found: Answer) -> list[str]:
    plan = found.plan
    seeds = f"{counted(len(plan.seeds), 'seed')} ({', '.join(map(str, plan.seeds))})"
    how, tested = f"with {seeds} for each setting", "setting"
    if plan.search is not None:
        how = f"with seed {plan.seeds[0]} for each trial, and with {seeds} for each finalist"
        tested = "finalist"
    num_tests = sum(one.verdict != "best" for one in found.outcomes if one.tests)
    resamples = enough_for(num_tests, plan.resamples)
    return [
        f"Measured on {found.data or 'nothing'}, {how}. No test dialogue was read.",
        "",
        *_searched(found),
        f"Common settings: {' '.join(plan.base) or 'the defaults'}.",
        "",
        f"Each {tested} is tested against the best one by a paired bootstrap over dialogues, in which the replies of "
        f"all seeds to a dialogue are resampled together ({resamples:,} resamples); p is corrected for the number "
        f"of {tested}s (Holm). “Worse” means p below 0.05, and worse with every seed. “Over seeds” is the standard "
        "deviation.",
    ]


def _searched(found: Answer) -> list[str]:
    search = found.plan.search
    if search is None:
        return []
    lists = [f"{key}={' / '.join(values)}" for key, values in found.plan.axes.items()]
    ranges = [f"{key}={one}" for key, one in search.ranges.items()]
    return [
        f"Searched {', '.join([*lists, *ranges])} with TPE (Optuna {found.optuna}, seed {search.seed}): "
        f"{counted(search.num_trials, 'trial')}. Finalists are the best {search.num_finalists} of the trials that were "
        "trained to the end.",
        "",
    ]


def _conclusion(found: Answer, label: str) -> list[str]:
    ended = [one for one in found.outcomes if one.score is not None]
    if not ended:
        return ["No setting was trained and measured with all of its seeds."]
    best, ties = ended[0], [one for one in ended[1:] if not one.verdict.startswith("worse")]
    text = f"Best by {label}: {best.setting.name}."
    if len(ended) == 1:
        text += " There is no other setting to compare it with."
    elif not ties:
        tested = "settings that were trained to the end" if found.plan.search is None else "finalists"
        text += f" All other {tested} are worse."
    else:
        text += f" No difference was shown between it and {len(ties)} of the {len(ended) - 1} others."
    return [
        f"{text} It was chosen on the dialogues that it was measured on, which flatters it: for figures to report, "
        "evaluate it on the test split, with falconer evaluate.",
    ]
