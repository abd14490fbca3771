"""What an evaluation comes to: scores, intervals, tests, slices and controls of a base model and its tuned self."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from falconer.data.language import Language
from falconer.evaluate.ablations import CONTROLS, Control, altered
from falconer.evaluate.measure import Evaluated, reply_turns
from falconer.evaluate.text.baselines import floor_rows
from falconer.evaluate.text.bootstrap import intervals
from falconer.evaluate.text.compare import (
    System,
    bootstrap_facts,
    compare_systems,
    describe,
    gold_system,
    legacy_of,
    measured_parts,
    sacrebleu_test,
    system_of,
)
from falconer.evaluate.text.ranking import ranking_floors
from falconer.evaluate.text.slices import slice_figures
from falconer.records import Dialogue

# What a control should change if the model uses what it is given.
CONTROLLED = ("word_ppl", "bleu", "rouge_l", "f1", "persona_use", "hits_1", "c_score")
NOT_MEASURED = "not measured"
_SHUFFLED_GOLD = "gold, shuffled persona"


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How intervals and tests are made."""

    resamples: int
    seed: int


# Adds the C-score's counts to systems, and says how: `consistency.judge` with a model.
Judge = Callable[[Mapping[str, System]], tuple[dict[str, System], dict[str, Any]]]


def summarise(
    base: Evaluated, tuned: Evaluated, controls: Mapping[Control, Evaluated], dialogues: Sequence[Dialogue],
    seen: Iterable[str] | None, bootstrap: Bootstrap, judge: Judge | None, language: Language,
) -> dict[str, Any]:  # fmt: skip
    """Return all figures of an evaluation, ready for JSON.

    Args:
        controls: from `run_controls`; empty where none were asked for.
        dialogues: those that were evaluated.
        seen: persona sentences that training shows; None where that is not known.
        judge: None where the user named no NLI model.
        language: whose rules count, and how it is known.

    Returns:
        `base`, `tuned`, `gold` (fields of `Score`); `floors` (by name); `intervals` (by system, floor or "gold": for
        each figure [low, high]); `tests` (tuned against base, rows of `compare.describe`); `sacrebleu` (its own paired
        test); `legacy` (by system); `ranking` (chance and idf overlap, hits@1 of rankers without a model, and
        `num_turns`; None where nothing was ranked); `consistency`; `slices`; `controls` (by name: `meaning`, `score`,
        `intervals`, `tests` against the unaltered); `bootstrap`; `language` (its name, code, and how it is known);
        `not_measured`, `notes` and `signatures` (see `compare.measured_parts`).
    """
    code = language.code
    systems = {"base": base.as_system("base", code), "tuned": tuned.as_system("tuned", code)}
    systems |= {"gold": gold_system(tuned.predictions, code)}
    systems |= {name: one.as_system(name, code) for name, one in controls.items()}
    withheld, parts = measured_parts(systems["gold"], list(systems.values()))
    systems = {name: system.without(withheld) for name, system in systems.items()}
    consistency: Any = NOT_MEASURED
    if judge:
        judged, consistency = judge(systems | _shuffled_gold(systems["gold"], dialogues, bootstrap.seed))
        systems = {name: judged[name] for name in systems}
    floors = {
        name: system_of(name, rows, code).without(withheld)
        for name, rows in floor_rows(tuned.predictions, code).items()
    }
    pair = [systems["base"], systems["tuned"]]
    shown = {name: systems[name] for name in ("base", "tuned", "gold")} | floors
    resampling = (bootstrap.resamples, bootstrap.seed)
    return {
        **{name: asdict(systems[name].score) for name in ("base", "tuned")},
        "floors": {name: asdict(floor.score) for name, floor in floors.items()},
        "gold": asdict(systems["gold"].score),
        "intervals": {name: intervals(system.blocks, *resampling) for name, system in shown.items()},
        "tests": [describe(test) for test in compare_systems(pair, *resampling)["tuned"]],
        "sacrebleu": sacrebleu_test(pair, bootstrap.resamples),
        "legacy": {one.name: found for one in pair if (found := legacy_of(one))},
        "ranking": _ranking(tuned, dialogues, code),
        "consistency": consistency,
        "slices": slice_figures({one.name: one for one in pair}, seen, *resampling),
        "controls": _controls(systems["tuned"], {name: systems[name] for name in controls}, bootstrap),
        "bootstrap": bootstrap_facts(systems["tuned"], *resampling),
        "language": str(language),
        **parts,
    }


def _controls(tuned: System, controls: Mapping[Control, System], bootstrap: Bootstrap) -> dict[str, Any]:
    resampling = (bootstrap.resamples, bootstrap.seed)
    tests = compare_systems([tuned, *controls.values()], *resampling, metrics=CONTROLLED)
    return {
        name: {
            "meaning": CONTROLS[name],
            "score": asdict(system.score),
            "intervals": intervals(system.blocks, *resampling),
            "tests": [describe(test) for test in tests[name]],
        }
        for name, system in controls.items()
    }


def _ranking(tuned: Evaluated, dialogues: Sequence[Dialogue], language: str) -> dict[str, Any] | None:
    pairs = zip(reply_turns(dialogues), tuned.predictions, strict=False)
    ranked = [turn for turn, row in pairs if row.ranks]
    return {**ranking_floors(ranked, language), "num_turns": len(ranked)} if ranked else None


def _shuffled_gold(gold: System, dialogues: Sequence[Dialogue], seed: int) -> dict[str, System]:
    """Return gold beside other dialogues' personas: what a C-score is worth that knows nothing."""
    shown = altered(dialogues, "shuffled_persona", seed)
    if shown is None:
        return {}
    turns = zip(gold.predictions, reply_turns(shown), strict=False)
    rows = [replace(row, persona=dialogue.persona) for row, (dialogue, _) in turns]
    return {_SHUFFLED_GOLD: system_of(_SHUFFLED_GOLD, rows, gold.language)}
