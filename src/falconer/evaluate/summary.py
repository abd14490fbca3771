"""The results of an evaluation: figures, intervals, tests, slices and ablations of a base and a tuned model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from falconer.data.language import Language
from falconer.evaluate.ablations import ABLATIONS, AblationName, altered
from falconer.evaluate.measure import Evaluated, reply_turns
from falconer.evaluate.text.bootstrap import intervals
from falconer.evaluate.text.compare import compare_systems, sacrebleu_test
from falconer.evaluate.text.decodings import compare_decodings
from falconer.evaluate.text.ranking import ranking_baselines
from falconer.evaluate.text.slices import slice_figures
from falconer.evaluate.text.systems import (
    System,
    baseline_systems,
    bootstrap_facts,
    caveats_of,
    gold_system,
    legacy_of,
    system_of,
)
from falconer.records import Dialogue, Prediction
from falconer.run.metrics import NOT_MEASURED, Ablation, Consistency, Difference, Metrics, Ranking

# What an ablation should change if the model uses what it is given.
ABLATED = ("word_ppl", "bleu", "rouge_l", "f1", "persona_use", "hits_1", "c_score")
# What a reply that needs no model may be as good in.
AGAINST_BASELINES = ("bleu", "rouge_l", "f1")
_SHUFFLED_GOLD = "gold, shuffled persona"

# Adds the C-score's counts to systems, and says how: `consistency.judge` with a model.
Judge = Callable[[Mapping[str, System]], tuple[dict[str, System], Consistency]]


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured on some dialogues: base and tuned model, and the tuned one in each ablation that was asked for.

    Args:
        dialogues: those that were evaluated.
        seen: their persona sentences that training shows; None where that is not known.
        language: whose rules count, and how it is known.
        decodings: from `decodings.run_decodings`; empty if they were not asked for.
    """

    base: Evaluated
    tuned: Evaluated
    ablations: Mapping[AblationName, Evaluated]
    dialogues: Sequence[Dialogue]
    seen: Iterable[str] | None
    language: Language
    decodings: Mapping[str, Sequence[Prediction]] = field(default_factory=dict)

    def systems(self) -> dict[str, System]:
        """Return everything that was measured, and the gold replies, as systems by name."""
        code = self.language.code
        pair = {"base": self.base.as_system("base", code), "tuned": self.tuned.as_system("tuned", code)}
        ablations: dict[str, System] = {name: one.as_system(name, code) for name, one in self.ablations.items()}
        return {**pair, "gold": gold_system(self.tuned.predictions, code)} | ablations


def summarise(measured: Measured, resamples: int, seed: int, judge: Judge | None) -> Metrics:
    """Return all figures of an evaluation; what they depend on (settings, data, environment) is for the caller to add.

    Args:
        resamples, seed: of the bootstrap behind intervals and tests.
        judge: None where the user named no NLI model.
    """
    code = measured.language.code
    systems = measured.systems()
    caveats = caveats_of(systems["gold"], [system for name, system in systems.items() if name != "gold"])
    systems = {name: system.without(caveats.withheld) for name, system in systems.items()}
    consistency: Consistency | str = NOT_MEASURED
    if judge:
        judged, consistency = judge(systems | _shuffled_gold(systems["gold"], measured.dialogues, seed))
        systems = {name: judged[name] for name in systems}
    base, tuned, gold = (systems[name] for name in ("base", "tuned", "gold"))
    baselines = baseline_systems(measured.tuned.predictions, code, caveats.withheld)
    shown = {"base": base, "tuned": tuned, "gold": gold, **baselines}
    return Metrics(
        base=base.score,
        tuned=tuned.score,
        baselines={name: baseline.score for name, baseline in baselines.items()},
        gold=gold.score,
        intervals={name: intervals(system.blocks, resamples, seed) for name, system in shown.items()},
        tests=compare_systems([base, tuned], resamples, seed)["tuned"],
        baseline_tests=_baseline_tests(tuned, baselines, resamples, seed),
        sacrebleu=sacrebleu_test([base, tuned], resamples),
        legacy={system.name: found for system in (base, tuned) if (found := legacy_of(system))},
        ranking=_ranking(measured),
        consistency=consistency,
        slices=slice_figures({"base": base, "tuned": tuned}, measured.seen, resamples, seed),
        ablations=_ablations(tuned, {name: systems[name] for name in measured.ablations}, resamples, seed),
        decodings=compare_decodings(measured.decodings, resamples, seed, code, sorted(caveats.withheld))
        if measured.decodings
        else {},
        bootstrap=bootstrap_facts(tuned, resamples, seed),
        language=str(measured.language),
        not_measured=caveats.not_measured,
        notes=caveats.notes,
        signatures=caveats.signatures,
    )


def _baseline_tests(
    tuned: System, baselines: Mapping[str, System], resamples: int, seed: int
) -> dict[str, tuple[Difference, ...]]:
    # Baselines have replies alone, which are the first block.
    replies = replace(tuned, blocks=tuned.blocks[:1])
    return compare_systems([replies, *baselines.values()], resamples, seed, metrics=AGAINST_BASELINES)


def _ablations(
    tuned: System, ablations: Mapping[AblationName, System], resamples: int, seed: int
) -> dict[str, Ablation]:
    tests = compare_systems([tuned, *ablations.values()], resamples, seed, metrics=ABLATED)
    return {
        name: Ablation(ABLATIONS[name], system.score, intervals(system.blocks, resamples, seed), tests[name])
        for name, system in ablations.items()
    }


def _ranking(measured: Measured) -> Ranking | None:
    pairs = zip(reply_turns(measured.dialogues), measured.tuned.predictions, strict=False)
    ranked = [turn for turn, row in pairs if row.ranks]
    return Ranking(**ranking_baselines(ranked, measured.language.code), num_turns=len(ranked)) if ranked else None


def _shuffled_gold(gold: System, dialogues: Sequence[Dialogue], seed: int) -> dict[str, System]:
    """Return the gold replies with other dialogues' personas: the C-score of replies that ignore their persona."""
    shown = altered(dialogues, "shuffled_persona", seed)
    if shown is None:
        return {}
    turns = zip(gold.predictions, reply_turns(shown), strict=False)
    rows = [replace(row, persona=dialogue.persona) for row, (dialogue, _) in turns]
    return {_SHUFFLED_GOLD: system_of(_SHUFFLED_GOLD, rows, gold.language)}
