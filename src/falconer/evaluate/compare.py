"""Whether one system is better than another on the same turns, or only looks so."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from falconer.errors import FalconerError
from falconer.evaluate.file_text import shown
from falconer.evaluate.intervals import RESAMPLES, SEED, Difference, both_measured, corrected, differences, intervals
from falconer.evaluate.metrics import score_of, signatures
from falconer.evaluate.pairs import bleu_scorer, legacy
from falconer.evaluate.predictions import read_predictions
from falconer.evaluate.statistics import Statistics, statistics_of
from falconer.evaluate.table import METRICS
from falconer.records import Prediction, Score

# What a run's folder is compared by.
RUN_PREDICTIONS = "predictions-tuned.jsonl"
# bits_per_char is left out: over the same replies it orders systems as word_ppl does, so testing it too would only
# make Holm's correction stricter.
TESTED = tuple(metric.key for metric in METRICS if metric.better and metric.key != "bits_per_char")

# For each resampled reply: ten counts in float32 and an index.
_SACREBLEU_BYTES = 48


@dataclass(frozen=True, slots=True)
class System:
    """One system's replies, and the counts of them that figures and resamples are made of.

    Args:
        blocks: the first holds the statistics of `predictions`, a further one those of turns beyond them.
    """

    name: str
    predictions: Sequence[Prediction]
    blocks: tuple[Statistics, ...]

    @property
    def score(self) -> Score:
        return score_of(self.blocks, [row.prediction for row in self.predictions])


def system_of(name: str, predictions: Sequence[Prediction]) -> System:
    """Count what predictions tell."""
    return System(name, predictions, (statistics_of(predictions),))


def read_systems(paths: Sequence[Path], reference: Path | Sequence[Path] | None = None) -> list[System]:
    """Read runs (folders, by their tuned model's replies) and predictions files, each named by as much of its path as
    tells them apart.

    Raises:
        FalconerError: fewer than two, the same one twice, a run that was not evaluated, or see `read_predictions`.
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
        found.append(system_of(name, read_predictions(file, None if path.is_dir() else reference)))
    return found


def check_same_turns(baseline: System, system: System) -> None:
    """Refuse to compare systems that were not asked the same questions.

    Raises:
        FalconerError: naming the first difference: gold reply, persona, history or number of rows.
    """
    one, other = baseline.predictions, system.predictions
    hint = "Compare systems on the same test set, in the same order."
    for number, (first, second) in enumerate(zip(one, other, strict=False), start=1):
        for field in ("reference", "persona", "history"):
            here, there = getattr(first, field), getattr(second, field)
            # A file may leave out what it does not know.
            if here != there and (field == "reference" or (here and there)):
                raise FalconerError(
                    f"'{baseline.name}' and '{system.name}' are not about the same turns: in row {number} {field} is "
                    f"{_shown(here)} against {_shown(there)}.",
                    hint,
                )
    if len(one) != len(other):
        raise FalconerError(
            f"'{baseline.name}' has {len(one):,} replies and '{system.name}' has {len(other):,}; the first "
            f"{min(len(one), len(other)):,} are about the same turns.",
            hint,
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

    Perplexity per token is passed over where the tokens differ in number, for then they are not the same tokens.

    Args:
        systems: as `aligned` returns them.
    """
    baseline, *others = systems
    found = {}
    for system in others:
        tested = [key for key in metrics if key != "token_ppl" or _same_tokens(baseline, system)]
        found[system.name] = differences(baseline.blocks, system.blocks, tested, resamples, seed)
    return corrected(found)


def sacrebleu_test(systems: Sequence[System], resamples: int = RESAMPLES) -> dict[str, Any]:
    """Return sacreBLEU's own paired bootstrap test of BLEU against the first system; it resamples replies.

    Returns:
        `signature`, and `p` by the other systems' names, as `sacrebleu REF -i BASE SYSTEM --paired-bs -lc` prints them,
        but None where there is no difference at all: there it prints its smallest p. Only `skipped`, a reason, where it
        would take too much memory: it holds all resamples at once.
    """
    gib = resamples * len(systems[0].predictions) * _SACREBLEU_BYTES / 2**30
    if gib > 4:
        return {"skipped": f"sacreBLEU's test holds all resamples at once, here {gib:.0f} GiB"}
    from sacrebleu.significance import PairedTest

    named: list[tuple[str, Sequence[str]]] = [
        (system.name, [row.prediction for row in system.predictions]) for system in systems
    ]
    references = [[row.reference for row in systems[0].predictions]]
    signed, results = PairedTest(named, {"BLEU": bleu_scorer()}, references, "bs", n_samples=resamples)()
    baseline, *others = (result for result in results["BLEU"] if not isinstance(result, str))
    p_values = [None if other.score == baseline.score else other.p_value for other in others]
    return {
        "signature": str(signed["BLEU"]),
        "p": {system.name: p for system, p in zip(systems[1:], p_values, strict=True)},
    }


def comparison(systems: Sequence[System], resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, Any]:
    """Return everything `falconer compare` says, ready for JSON.

    Keys: `baseline`; `systems` (by name: `score`, `intervals`, `legacy`); `tests` (by name of each other system: rows
    of `describe`); `sacrebleu` (see `sacrebleu_test`); `bootstrap` (see `bootstrap_facts`); `signatures`.

    Raises:
        FalconerError: see `check_same_turns`.
    """
    systems = aligned(systems)
    tests = compare_systems(systems, resamples, seed)
    references = [row.reference for row in systems[0].predictions]
    return {
        "baseline": systems[0].name,
        "systems": {
            system.name: {
                "score": asdict(system.score),
                "intervals": intervals(system.blocks, resamples, seed),
                "legacy": legacy([row.prediction for row in system.predictions], references),
            }
            for system in systems
        },
        "tests": {name: [describe(test) for test in group] for name, group in tests.items()},
        "sacrebleu": sacrebleu_test(systems, resamples),
        "bootstrap": bootstrap_facts(systems[0], resamples, seed),
        "signatures": signatures(),
    }


def bootstrap_facts(system: System, resamples: int, seed: int) -> dict[str, Any]:
    """Return how intervals were made: resamples, seed, what was resampled, and of how much."""
    return {
        "resamples": resamples, "seed": seed, "unit": "dialogue", "level": 95,
        "num_dialogues": int(system.blocks[0].dialogues.max()) + 1, "num_replies": len(system.predictions),
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


def _same_tokens(baseline: System, system: System) -> bool:
    for pair in zip(baseline.blocks, system.blocks, strict=True):
        one, other = (statistics.columns.get("likelihood") for statistics in both_measured(*pair))
        if one is not None and other is not None and (one[:, 2] != other[:, 2]).any():
            return False
    return True


def _shown(value: object) -> str:
    return shown(" ".join(value) if isinstance(value, tuple) else str(value))
