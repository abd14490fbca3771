"""Whether one system is better than another on the same turns, or only looks so."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from falconer.data.language import NAMES, SEVERAL, UNKNOWN, has_spaces, resolve
from falconer.data.leakage import normalise
from falconer.errors import FalconerError
from falconer.evaluate.report.score_table import METRICS
from falconer.evaluate.text.baselines import replies_in_place
from falconer.evaluate.text.bootstrap import (
    MIN_DIALOGUES,
    RESAMPLES,
    SEED,
    Difference,
    both_measured,
    corrected,
    differences,
    intervals,
)
from falconer.evaluate.text.counts import Statistics, statistics_of
from falconer.evaluate.text.file_text import shown
from falconer.evaluate.text.measurable import legacy_reason, not_measured, overflows, remarks
from falconer.evaluate.text.metrics import score_of, signatures
from falconer.evaluate.text.pairs import bleu_scorer, golds_of, legacy
from falconer.evaluate.text.predictions import read_predictions
from falconer.evaluate.text.words import bleu_tokens, clean
from falconer.records import Prediction, Score, Turn

# What a run's folder is compared by.
RUN_PREDICTIONS = "predictions-tuned.jsonl"
# bits_per_char is left out: over the same replies it orders systems as word_ppl does, so testing it too would only
# make Holm's correction stricter.
TESTED = tuple(metric.key for metric in METRICS if metric.better and metric.key != "bits_per_char")
_WITHOUT_WORDS = {"word_ppl": "bits_per_char"}
# Where in `likelihood` the number stands that a figure is divided by.
_MEASURED_PER = {"token_ppl": 2, "word_ppl": 3, "bits_per_char": 4}

# For each resampled reply: ten counts in float32 and an index.
_SACREBLEU_BYTES = 48

# Columns that need not be measured in every row, and their place that is above 0 where they are.
_WHERE_MEASURED = {"likelihood": 2, "ranks": 2, "persona": 1, "bigrams": 1, "nli": 1}


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
        return _num_dialogues(self.blocks[0])

    def without(self, figures: Collection[str]) -> "System":
        """Return the system with nothing counted for some figures."""
        return replace(self, blocks=tuple(block.without(figures) for block in self.blocks))


def system_of(name: str, predictions: Sequence[Prediction], language: str = "en") -> System:
    """Count what predictions tell."""
    return System(name, predictions, (statistics_of(predictions, language),), language)


def gold_system(predictions: Sequence[Prediction], language: str) -> System:
    """Return the gold replies of some turns as a system: what it gets is all that any can get."""
    return system_of("gold", replies_in_place(predictions, [row.reference for row in predictions]), language)


def measured_parts(
    gold: System, systems: Sequence[System], *, has_floors: bool = True
) -> tuple[frozenset[str], dict[str, Any]]:
    """Return the figures that no system can have on these turns, and what a reader must know of the others.

    Args:
        has_floors: the systems are shown beside `floors.FLOORS`.

    Returns:
        Names of `Score`'s fields, for `System.without`; and ready for JSON `not_measured` (reasons by these names, also
        where one system alone lacks a figure), `notes` (sentences) and `signatures`.
    """
    reasons = not_measured(gold.blocks[0], gold.language)
    if reason := _legacy_reason(gold):
        reasons["legacy"] = reason
    if not any("likelihood" in block.columns for system in systems for block in system.blocks):
        reasons.pop("word_ppl", None)  # nothing to say: no file tells it
    if not any(row.persona for row in gold.predictions):
        reasons.pop("persona_use", None)
    large = overflows({system.name: system.without(reasons).blocks for system in systems})
    notes = remarks(gold.blocks[0], reasons)
    notes += [f"{note}." for note in [bleu_tokens(gold.language).note] if note and "bleu" not in reasons]
    if gold.language != "en" and has_floors:
        known = "not known to be" if gold.language in (UNKNOWN, SEVERAL) else "not"
        notes.append(f"The constant reply, a floor in English, is left out: these replies are {known} English.")
    if gold.num_dialogues < MIN_DIALOGUES:
        notes.append(
            f"{too_few(gold.num_dialogues)}: no figure of their replies is tested, and no interval is to be trusted; "
            f"{MIN_DIALOGUES} and more are needed."
        )
    elif 0 < (num := max((_num_measured(one.blocks[0], "ranks") for one in systems), default=0)) < MIN_DIALOGUES:
        notes.append(
            f"hits@1 was measured in {num} dialogues: it is not tested, and its interval is not to be trusted; "
            f"{MIN_DIALOGUES} and more are needed."
        )
    nums = {1 + len(row.other_references) for row in gold.predictions}
    signed = {
        key: text for key, text in signatures(gold.language, nums).items() if key != "legacy" or key not in reasons
    }
    parts = {"not_measured": reasons | large, "notes": notes, "signatures": signed}
    return frozenset(reasons), parts


def too_few(num_dialogues: int) -> str:
    """Return why nothing is tested on so few dialogues."""
    return f"Too few dialogues ({num_dialogues})"


def read_systems(
    paths: Sequence[Path], reference: Path | Sequence[Path] | None = None, language: str = "auto"
) -> list[System]:
    """Read runs (folders, by their tuned model's replies) and predictions files, each named by as much of its path as
    tells them apart.

    Args:
        language: see `resolve`; the first one's gold replies tell it.

    Raises:
        FalconerError: fewer than two, the same one twice, a run that was not evaluated, an unknown language, or see
            `read_predictions`.
    """
    if len(paths) < 2:
        raise FalconerError("There is nothing to compare with.", "Give two or more runs or predictions files.")
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise FalconerError(f"'{twice}' is named twice.", "Give two or more different runs or predictions files.")
    found = []
    for path, name in zip(paths, _short_names(paths), strict=True):
        file = path / RUN_PREDICTIONS if path.is_dir() else path
        if path.is_dir() and not file.is_file():
            raise FalconerError(
                f"'{path}' holds no {RUN_PREDICTIONS}: it was not evaluated.",
                f"Run: falconer evaluate --run {path}",
            )
        found.append((name, read_predictions(file, None if path.is_dir() else reference)))
    code = resolve(language, [row.reference for row in found[0][1]]).code
    return [system_of(name, rows, code) for name, rows in found]


def check_same_turns(baseline: System, system: System) -> None:
    """Refuse to compare systems that were not asked the same questions.

    Raises:
        FalconerError: naming the first difference: gold reply, persona, history or number of rows.
    """
    one, other = baseline.predictions, system.predictions
    same_set = "Compare systems on the same test set, in the same order."
    same_style = (
        "The letters are the same: one was evaluated with data.text=raw and the other with natural, say. Their "
        "perplexities and scores are of different texts; train and evaluate both in one style."
    )
    for number, (first, second) in enumerate(zip(one, other, strict=False), start=1):
        for field in ("reference", "other_references", "persona", "history"):
            here, there = (getattr(row, field) for row in (first, second))
            if field == "history" and here and there and [turn.text for turn in here] == [turn.text for turn in there]:
                continue  # a file that names no speakers is only taken to alternate
            # A file may leave out what it does not know.
            if here != there and ("reference" in field or (here and there)):
                raise FalconerError(
                    f"'{baseline.name}' and '{system.name}' are not about the same turns: in row {number} {field} is "
                    f"{_shown(here)} against {_shown(there)}.",
                    same_style if field == "reference" and normalise(here) == normalise(there) else same_set,
                )
    if len(one) != len(other):
        raise FalconerError(
            f"'{baseline.name}' has {len(one):,} replies and '{system.name}' has {len(other):,}; the first "
            f"{min(len(one), len(other)):,} are about the same turns.",
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
) -> dict[str, list[Difference]]:
    """Test each system against the first one; all tests are corrected together (Holm).

    Perplexity per token is passed over where the tokens differ in number, for then they are not the same tokens, and
    perplexity per word where the words do: one of the models was measured on another spelling of the text. Where there
    are no spaces between words, bits per character stands in its place. Figures of fewer than `MIN_DIALOGUES` dialogues
    are not tested.

    Args:
        systems: as `aligned` returns them.
    """
    baseline, *others = systems
    wanted = metrics if has_spaces(baseline.language) else [_WITHOUT_WORDS.get(key, key) for key in metrics]
    found = {}
    for system in others:
        left_out = {key for key, place in _MEASURED_PER.items() if not _same(baseline, system, place)}
        tested = [key for key in wanted if key not in left_out]
        pairs = zip(baseline.blocks, system.blocks, strict=True)
        enough = [_of_enough(*pair) for pair in pairs if _num_dialogues(pair[0]) >= MIN_DIALOGUES]
        found[system.name] = differences(
            [one for one, _ in enough], [other for _, other in enough], tested, resamples, seed
        )
    return corrected(found)


def _of_enough(first: Statistics, second: Statistics) -> tuple[Statistics, Statistics]:
    """Return both systems' statistics without what was measured in too few of their dialogues."""
    first, second = both_measured(first, second)
    few = {name for name in _WHERE_MEASURED if 0 < _num_measured(first, name) < MIN_DIALOGUES}
    ours, theirs = ({n: c for n, c in one.columns.items() if n not in few} for one in (first, second))
    return replace(first, columns=ours), replace(second, columns=theirs)


def _num_measured(statistics: Statistics, name: str) -> int:
    """Return in how many dialogues a column was measured at all."""
    column = statistics.columns.get(name)
    if column is None:
        return 0
    return len(set(statistics.dialogues[column[:, _WHERE_MEASURED[name]] > 0].tolist()))


def sacrebleu_test(systems: Sequence[System], resamples: int = RESAMPLES) -> dict[str, Any]:
    """Return sacreBLEU's own paired bootstrap test of BLEU against the first system; it resamples replies.

    Returns:
        `signature`, and `p` by the other systems' names, as `sacrebleu REF -i BASE SYSTEM --paired-bs -lc` prints them,
        but None where there is no difference at all: there it prints its smallest p. Only `skipped`, a reason, where it
        would take too much memory (it holds all resamples at once), BLEU is not measured, or dialogues are too few.
    """
    baseline_system = systems[0]
    if baseline_system.num_dialogues < MIN_DIALOGUES:
        return {"skipped": f"sacreBLEU's test: {too_few(baseline_system.num_dialogues).lower()}"}
    if baseline_system.score.bleu is None:
        return {"skipped": "sacreBLEU's test: BLEU is not measured"}
    gib = resamples * len(systems[0].predictions) * _SACREBLEU_BYTES / 2**30
    if gib > 4:
        return {"skipped": f"sacreBLEU's test holds all resamples at once, here {gib:.0f} GiB"}
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
    return {
        "signature": str(signed["BLEU"]),
        "p": {system.name: p for system, p in zip(systems[1:], p_values, strict=True)},
    }


def comparison(systems: Sequence[System], resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, Any]:
    """Return everything `falconer compare` says, ready for JSON.

    Keys: `baseline`; `systems` (by name: `score`, `intervals`, `legacy`); `tests` (by name of each other system: rows
    of `describe`); `sacrebleu` (see `sacrebleu_test`); `bootstrap` (see `bootstrap_facts`); `language`; and
    `not_measured`, `notes` and `signatures` (see `measured_parts`).

    Raises:
        FalconerError: see `check_same_turns`.
    """
    systems = aligned(systems)
    _, gold = aligned([systems[0], gold_system(systems[0].predictions, systems[0].language)])
    withheld, parts = measured_parts(gold, systems, has_floors=False)
    parts["notes"] += [
        f"Word perplexity of '{system.name}' is not tested: its words are not those of '{systems[0].name}', so it was "
        "measured on another spelling of the replies."
        for system in systems[1:]
        if has_spaces(system.language) and not _same(systems[0], system, 3)
    ]
    systems = [system.without(withheld) for system in systems]
    tests = compare_systems(systems, resamples, seed)
    return {
        "baseline": systems[0].name,
        "language": f"{NAMES[gold.language]} ({gold.language})" if gold.language in NAMES else gold.language,
        "systems": {
            system.name: {
                "score": asdict(system.score),
                "intervals": intervals(system.blocks, resamples, seed),
                "legacy": legacy_of(system),
            }
            for system in systems
        },
        "tests": {name: [describe(test) for test in group] for name, group in tests.items()},
        "sacrebleu": sacrebleu_test(systems, resamples),
        "bootstrap": bootstrap_facts(systems[0], resamples, seed),
        **parts,
    }


def legacy_of(system: System) -> dict[str, float]:
    """Return `legacy` of a system, nothing where that says nothing about the gold replies."""
    if _legacy_reason(system):
        return {}
    texts = [clean(row.prediction) for row in system.predictions]
    return legacy(texts, [golds_of(row) for row in system.predictions])


def _legacy_reason(system: System) -> str:
    return legacy_reason([clean(row.reference, system.language) for row in system.predictions], system.language)


def bootstrap_facts(system: System, resamples: int, seed: int) -> dict[str, Any]:
    """Return how intervals were made: resamples, seed, what was resampled, and of how much."""
    return {
        "resamples": resamples, "seed": seed, "unit": "dialogue", "level": 95,
        "num_dialogues": system.num_dialogues, "num_replies": len(system.predictions),
    }  # fmt: skip


def describe(test: Difference) -> dict[str, Any]:
    """Return a test ready for JSON: its fields and `difference` (system - baseline)."""
    return {**asdict(test), "difference": test.difference}


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


def _num_dialogues(statistics: Statistics) -> int:
    return int(statistics.dialogues.max()) + 1


def _shown(value: object) -> str:
    parts = value if isinstance(value, tuple) else (value,)
    return shown(" ".join(f"{part.speaker}: {part.text}" if isinstance(part, Turn) else str(part) for part in parts))
