"""Systems: the replies of a model, of gold or of a baseline to some turns, their counts, and which figures exist."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from falconer.data.language import SEVERAL, UNKNOWN
from falconer.evaluate.text.baselines import baseline_rows, replies_in_place
from falconer.evaluate.text.bootstrap import MIN_DIALOGUES
from falconer.evaluate.text.counts import Statistics, statistics_of
from falconer.evaluate.text.measurable import legacy_reason, not_measured, overflows, remarks
from falconer.evaluate.text.metrics import score_of, signatures
from falconer.evaluate.text.pairs import golds_of, legacy
from falconer.evaluate.text.words import bleu_tokens, clean
from falconer.records import Prediction, Score
from falconer.run.metrics import Bootstrap


@dataclass(frozen=True, slots=True)
class System:
    """One system's replies, and the counts of them that figures and resamples are made of.

    Args:
        blocks: the first holds the statistics of `predictions`, a further one those of turns beyond them.
        language: by whose rules they were counted.
    """

    name: str
    predictions: Sequence[Prediction]
    blocks: tuple[Statistics, ...]
    language: str = "en"

    @property
    def score(self) -> Score:
        return score_of(self.blocks, [row.prediction for row in self.predictions], self.language)

    @property
    def num_dialogues(self) -> int:
        return self.blocks[0].num_dialogues

    def without(self, figures: Collection[str]) -> "System":
        """Return the system with nothing counted for some figures."""
        return replace(self, blocks=tuple(block.without(figures) for block in self.blocks))


@dataclass(frozen=True, slots=True)
class Caveats:
    """What a reader must know of figures on a set of turns.

    Args:
        withheld: the figures that no system can have there, for `System.without`.
        not_measured: why a figure is None, by the field of `Score`; also where one system alone lacks it.
        notes: sentences.
        signatures: see `metrics.signatures`.
    """

    withheld: frozenset[str]
    not_measured: Mapping[str, str]
    notes: tuple[str, ...]
    signatures: Mapping[str, str]


def system_of(name: str, predictions: Sequence[Prediction], language: str = "en") -> System:
    """Count what predictions tell."""
    return System(name, predictions, (statistics_of(predictions, language),), language)


def gold_system(predictions: Sequence[Prediction], language: str) -> System:
    """Return the gold replies of some turns as a system; its scores are the highest possible."""
    return system_of("gold", replies_in_place(predictions, [row.reference for row in predictions]), language)


def baseline_systems(predictions: Sequence[Prediction], language: str, withheld: Collection[str]) -> dict[str, System]:
    """Return the baselines on the turns of some predictions as systems, without the figures that are withheld there."""
    rows = baseline_rows(predictions, language)
    return {name: system_of(name, some, language).without(withheld) for name, some in rows.items()}


def caveats_of(gold: System, systems: Sequence[System], *, has_baselines: bool = True) -> Caveats:
    """Return what a reader must know of the figures of systems on the turns of some gold replies.

    Args:
        has_baselines: the systems are shown beside `baselines.BASELINES`.
    """
    reasons = not_measured(gold.blocks[0], gold.language)
    if reason := _legacy_reason(gold):
        reasons["legacy"] = reason
    if not any("likelihood" in block.columns for system in systems for block in system.blocks):
        reasons.pop("word_ppl", None)  # nothing to say: no file tells it
    if not any(row.persona for row in gold.predictions):
        reasons.pop("persona_use", None)
    large = overflows({system.name: system.without(reasons).blocks for system in systems})
    nums = {1 + len(row.other_references) for row in gold.predictions}
    signed = signatures(gold.language, nums)
    return Caveats(
        frozenset(reasons),
        reasons | large,
        tuple(_notes(gold, systems, reasons, has_baselines)),
        {key: text for key, text in signed.items() if key != "legacy" or key not in reasons},
    )


def _notes(gold: System, systems: Sequence[System], reasons: Mapping[str, str], has_baselines: bool) -> list[str]:
    notes = remarks(gold.blocks[0], reasons)
    notes += [f"{note}." for note in [bleu_tokens(gold.language).note] if note and "bleu" not in reasons]
    if gold.language != "en" and has_baselines:
        known = "not known to be" if gold.language in (UNKNOWN, SEVERAL) else "not"
        notes.append(f"The baseline “constant” is left out: it is English, and these replies are {known} English.")
    if gold.num_dialogues < MIN_DIALOGUES:
        notes.append(
            f"{too_few(gold.num_dialogues)}: no figure is tested, and the intervals are not reliable; at least "
            f"{MIN_DIALOGUES} dialogues are needed."
        )
    elif 0 < (num := max((one.blocks[0].num_measured("ranks") for one in systems), default=0)) < MIN_DIALOGUES:
        notes.append(
            f"hits@1 was measured in only {num} dialogue{'s' * (num > 1)}: it is not tested, and its interval is not "
            f"reliable; at least {MIN_DIALOGUES} dialogues are needed."
        )
    return notes


def too_few(num_dialogues: int) -> str:
    """Return why nothing is tested on so few dialogues."""
    return f"Too few dialogues ({num_dialogues})"


def legacy_of(system: System) -> dict[str, float]:
    """Return `legacy` of a system, nothing where that says nothing about the gold replies."""
    if _legacy_reason(system):
        return {}
    texts = [clean(row.prediction) for row in system.predictions]
    return legacy(texts, [golds_of(row) for row in system.predictions])


def _legacy_reason(system: System) -> str:
    return legacy_reason([clean(row.reference, system.language) for row in system.predictions], system.language)


def bootstrap_facts(system: System, resamples: int, seed: int) -> Bootstrap:
    """Return how intervals were made: resamples, seed, what was resampled, and of how much."""
    return Bootstrap(resamples, seed, "dialogue", 95, system.num_dialogues, len(system.predictions))
