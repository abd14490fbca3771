"""Comparing systems on the same turns: which differences are significant?"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any

from falconer.data.files.row import shown
from falconer.data.language import NAMES, has_spaces, resolve
from falconer.data.leakage import normalise
from falconer.errors import FalconerError
from falconer.evaluate.report.score_table import METRICS
from falconer.evaluate.text.bootstrap import (
    MIN_DIALOGUES,
    RESAMPLES,
    SEED,
    both_measured,
    corrected,
    differences,
    enough_for,
    intervals,
)
from falconer.evaluate.text.counts import Statistics
from falconer.evaluate.text.pairs import bleu_scorer, golds_of
from falconer.evaluate.text.predictions import read_predictions
from falconer.evaluate.text.systems import (
    System,
    bootstrap_facts,
    caveats_of,
    gold_system,
    legacy_of,
    system_of,
    too_few,
)
from falconer.evaluate.text.words import clean
from falconer.files.together import finish_together
from falconer.records import Score, Turn
from falconer.run.folder import EVALUATION_SET, check_files, predictions_name
from falconer.run.metrics import Bootstrap, Difference, Intervals, SacreBleuTest, tests_to_json

# What a run's folder is compared by.
RUN_PREDICTIONS = predictions_name("tuned")
# bits_per_char is left out: over the same replies it orders systems as word_ppl does, so testing it too would only
# make Holm's correction stricter.
TESTED = tuple(metric.key for metric in METRICS if metric.better and metric.key != "bits_per_char")
_WITHOUT_WORDS = MappingProxyType({"word_ppl": "bits_per_char"})
# Where in `likelihood` the number stands that a figure is divided by.
_MEASURED_PER = MappingProxyType({"token_ppl": 2, "word_ppl": 3, "bits_per_char": 4})

# For each resampled reply: ten counts in float32 and an index.
_SACREBLEU_BYTES = 48


@dataclass(frozen=True, slots=True)
class Compared:
    """One system among those that are compared; `legacy` as in `Metrics`."""

    score: Score
    intervals: Intervals
    legacy: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything `falconer compare` says.

    Args:
        baseline: the name of the system that the others are tested against.
        tests: by the name of each other system.
        language, sacrebleu, bootstrap, not_measured, notes, signatures: as in `Metrics`.
    """

    baseline: str
    language: str
    systems: Mapping[str, Compared]
    tests: Mapping[str, tuple[Difference, ...]]
    sacrebleu: SacreBleuTest
    bootstrap: Bootstrap
    not_measured: Mapping[str, str]
    notes: tuple[str, ...]
    signatures: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return what `falconer compare --json` prints."""
        return asdict(self) | {
            "tests": {name: tests_to_json(tests) for name, tests in self.tests.items()},
            "sacrebleu": self.sacrebleu.to_json(),
        }


def read_systems(
    paths: Sequence[Path], reference: Path | Sequence[Path] | None = None, language: str = "auto"
) -> list[System]:
    """Read runs (folders, by their tuned model's replies) and predictions files, each named by as much of its path as
    tells them apart.

    Args:
        language: see `resolve`; the first one's gold replies tell it.

    Raises:
        FalconerError: fewer than two, the same one twice, a run that was not evaluated or whose files are of two
            evaluations, an unknown language, or see `read_predictions`.
    """
    if len(paths) < 2:
        raise FalconerError("A comparison needs at least two systems.", "Give two or more runs or predictions files.")
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise FalconerError(f"'{twice}' is named twice.", "Give two or more different runs or predictions files.")
    found = []
    for path, name in zip(paths, _short_names(paths), strict=True):
        is_folder = os.path.isdir(path)  # pathlib's raises for names that no file can have
        file = path / RUN_PREDICTIONS if is_folder else path
        if is_folder:
            finish_together(path, EVALUATION_SET)
        if is_folder and not os.path.isfile(file):
            raise FalconerError(
                f"'{path}' has no {RUN_PREDICTIONS}, so it has not been evaluated yet.",
                f"Run: falconer evaluate --run {path}",
            )
        check_files(file.parent, [file.name])
        found.append((name, read_predictions(file, None if is_folder else reference)))
    code = resolve(language, [row.reference for row in found[0][1]]).code
    return [system_of(name, rows, code) for name, rows in found]


def check_same_turns(baseline: System, system: System) -> None:
    """Refuse to compare systems whose replies are not to the same turns.

    Raises:
        FalconerError: naming the first difference: gold reply, persona, history or number of rows.
    """
    one, other = baseline.predictions, system.predictions
    same_set = "Compare systems on the same test set, in the same order."
    same_style = (
        "The two texts differ in case, punctuation or spaces alone, as they do between data.text=raw and natural. "
        "Figures of different texts are not comparable; train and evaluate both systems in one style."
    )
    for number, (first, second) in enumerate(zip(one, other, strict=False), start=1):
        for field in ("reference", "other_references", "persona", "history"):
            here, there = (getattr(row, field) for row in (first, second))
            if field == "history" and here and there and [turn.text for turn in here] == [turn.text for turn in there]:
                continue  # a file that names no speakers is only taken to alternate
            # A file may leave out what it does not know.
            if here != there and ("reference" in field or (here and there)):
                raise FalconerError(
                    f"'{baseline.name}' and '{system.name}' do not reply to the same turns: in row {number}, {field} "
                    f"is {_shown(here)} in the first and {_shown(there)} in the second.",
                    same_style if field == "reference" and normalise(here) == normalise(there) else same_set,
                )
    if len(one) != len(other):
        raise FalconerError(
            f"'{baseline.name}' has {len(one):,} replies and '{system.name}' has {len(other):,}; the first "
            f"{min(len(one), len(other)):,} are to the same turns.",
            same_set,
        )


def aligned(systems: Sequence[System]) -> list[System]:
    """Return systems whose rows are grouped into the same dialogues, so that all of them are resampled alike.

    Files may number dialogues differently, or not at all; the coarsest grouping among them counts for all.

    Raises:
        FalconerError: see `check_same_turns`.
    """
    for system in systems[1:]:
        check_same_turns(systems[0], system)
    dialogues = min((system.blocks[0].dialogues for system in systems), key=lambda numbers: int(numbers.max()))
    return [
        replace(system, blocks=(replace(system.blocks[0], dialogues=dialogues), *system.blocks[1:]))
        for system in systems
    ]


def compare_systems(
    systems: Sequence[System], resamples: int = RESAMPLES, seed: int = SEED, *, metrics: Sequence[str] = TESTED
) -> dict[str, tuple[Difference, ...]]:
    """Test each system against the first one; all tests are corrected together (Holm).

    Perplexity per token is passed over where the tokens differ in number, for then they are not the same tokens, and
    perplexity per word where the words do: one of the models was measured on another spelling of the text. Where there
    are no spaces between words, bits per character stands in its place. Figures of fewer than `MIN_DIALOGUES` dialogues
    are not tested.

    Args:
        systems: as `aligned` returns them.
        resamples: tests take more if they are many, see `enough_for`.
    """
    baseline, *others = systems
    resamples = enough_for(len(others) * len(metrics), resamples)
    wanted = metrics if has_spaces(baseline.language) else [_WITHOUT_WORDS.get(key, key) for key in metrics]
    found = {}
    for system in others:
        left_out = {key for key, place in _MEASURED_PER.items() if not _same(baseline, system, place)}
        tested = [key for key in wanted if key not in left_out]
        pairs = zip(baseline.blocks, system.blocks, strict=True)
        enough = [_of_enough(*pair) for pair in pairs if pair[0].num_dialogues >= MIN_DIALOGUES]
        found[system.name] = differences(
            [one for one, _ in enough], [other for _, other in enough], tested, resamples, seed
        )
    return corrected(found)


def _of_enough(first: Statistics, second: Statistics) -> tuple[Statistics, Statistics]:
    """Return both systems' statistics without what was measured in too few of their dialogues."""
    first, second = both_measured(first, second)
    return first.without_few(MIN_DIALOGUES), second.without_few(MIN_DIALOGUES)


def sacrebleu_test(systems: Sequence[System], resamples: int = RESAMPLES) -> SacreBleuTest:
    """Return sacreBLEU's own paired bootstrap test of BLEU against the first system; it resamples replies.

    Returns:
        p as `sacrebleu REF -i BASE SYSTEM --paired-bs -lc` prints them, but None where there is no difference at all:
        there it prints its smallest p. Or why it was skipped: it would take too much memory (it holds all resamples at
        once), BLEU is not measured, or dialogues are too few.
    """
    baseline_system = systems[0]
    if baseline_system.num_dialogues < MIN_DIALOGUES:
        return SacreBleuTest(skipped=too_few(baseline_system.num_dialogues).lower())
    if baseline_system.score.bleu is None:
        return SacreBleuTest(skipped="BLEU is not measured")
    gib = resamples * len(systems[0].predictions) * _SACREBLEU_BYTES / 2**30
    if gib > 4:
        return SacreBleuTest(skipped=f"it holds all resamples in memory at once, here {gib:.0f} GiB")
    from sacrebleu.significance import PairedTest

    language = baseline_system.language
    named: list[tuple[str, Sequence[str]]] = [
        (system.name, [clean(row.prediction, language) for row in system.predictions]) for system in systems
    ]
    golds = zip_longest(*(golds_of(row, language) for row in baseline_system.predictions))
    references = [list(one) for one in golds]  # None where a turn has fewer gold replies than another
    signed, results = PairedTest(named, {"BLEU": bleu_scorer(language)}, references, "bs", n_samples=resamples)()
    baseline, *others = (result for result in results["BLEU"] if not isinstance(result, str))
    p_values = [None if other.score == baseline.score else other.p_value for other in others]
    p_by_name = {system.name: p for system, p in zip(systems[1:], p_values, strict=True)}
    return SacreBleuTest(str(signed["BLEU"]), p_by_name)


def comparison(systems: Sequence[System], resamples: int = RESAMPLES, seed: int = SEED) -> Comparison:
    """Return everything `falconer compare` says.

    Raises:
        FalconerError: see `check_same_turns`.
    """
    systems = aligned(systems)
    _, gold = aligned([systems[0], gold_system(systems[0].predictions, systems[0].language)])
    caveats = caveats_of(gold, systems, has_baselines=False)
    other_words = tuple(
        f"Word perplexity of '{system.name}' is not tested: it was measured on a different spelling of the gold "
        f"replies than that of '{systems[0].name}', with other words."
        for system in systems[1:]
        if has_spaces(system.language) and not _same(systems[0], system, 3)
    )
    systems = [system.without(caveats.withheld) for system in systems]
    return Comparison(
        baseline=systems[0].name,
        language=f"{NAMES[gold.language]} ({gold.language})" if gold.language in NAMES else gold.language,
        systems={
            system.name: Compared(system.score, intervals(system.blocks, resamples, seed), legacy_of(system))
            for system in systems
        },
        tests=compare_systems(systems, resamples, seed),
        sacrebleu=sacrebleu_test(systems, resamples),
        bootstrap=bootstrap_facts(systems[0], resamples, seed),
        not_measured=caveats.not_measured,
        notes=(*caveats.notes, *other_words),
        signatures=caveats.signatures,
    )


def _short_names(paths: Sequence[Path]) -> list[str]:
    longest = max(len(path.parts) for path in paths)
    for length in range(1, longest + 1):
        names = [str(Path(*path.parts[-length:])) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _same(baseline: System, system: System, place: int) -> bool:
    """Say whether what stands at a place of `likelihood` is the same in every reply that both measured."""
    for pair in zip(baseline.blocks, system.blocks, strict=True):
        one, other = (statistics.columns.get("likelihood") for statistics in both_measured(*pair))
        if one is not None and other is not None and (one[:, place] != other[:, place]).any():
            return False
    return True


def _shown(value: object) -> str:
    parts = value if isinstance(value, tuple) else (value,)
    return shown(" ".join(f"{part.speaker}: {part.text}" if isinstance(part, Turn) else str(part) for part in parts))
