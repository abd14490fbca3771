"""Scoring a predictions file: its figures, intervals and baselines, and a paired test against another file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from falconer.data.language import resolve
from falconer.errors import FalconerError
from falconer.evaluate.text.bootstrap import RESAMPLES, SEED, intervals
from falconer.evaluate.text.compare import aligned, compare_systems, sacrebleu_test
from falconer.evaluate.text.predictions import read_predictions
from falconer.evaluate.text.systems import (
    System,
    baseline_systems,
    bootstrap_facts,
    caveats_of,
    gold_system,
    legacy_of,
    system_of,
)
from falconer.files.replace import sha256
from falconer.records import Prediction, Score
from falconer.run.folder import check_files
from falconer.run.metrics import Bootstrap, Difference, Intervals, SacreBleuTest, tests_to_json


@dataclass(frozen=True, slots=True)
class Against:
    """A paired test against another file: its path, SHA-256 and figures, and the tests."""

    file: str
    sha256: str
    score: Score
    tests: tuple[Difference, ...]
    sacrebleu: SacreBleuTest


@dataclass(frozen=True, slots=True)
class FileScore:
    """What is known about a predictions file.

    Args:
        score: None in it where a figure needs the model, persona or history.
        baselines: the figures of each baseline that the rows allow.
        gold: those of the gold replies themselves.
        legacy: figures under older definitions.
        language, bootstrap, not_measured, notes, signatures: as in `Metrics`.
        against: None where no other file was given.
    """

    file: str
    sha256: str
    language: str
    score: Score
    intervals: Intervals
    baselines: Mapping[str, Score]
    gold: Score
    legacy: Mapping[str, float]
    bootstrap: Bootstrap
    not_measured: Mapping[str, str]
    notes: tuple[str, ...]
    signatures: Mapping[str, str]
    against: Against | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what `falconer score --json` prints: the figures among the other keys, the baselines as `floors`."""
        tree = asdict(self)
        score, baselines, against = (tree.pop(key) for key in ("score", "baselines", "against"))
        tree |= {**score, "floors": baselines}
        if self.against:
            tree |= {
                "baseline": {"file": against["file"], "sha256": against["sha256"], **against["score"]},
                "tests": tests_to_json(self.against.tests),
                "sacrebleu": self.against.sacrebleu.to_json(),
            }
        return tree


def score_file(
    path: Path, reference: Path | Sequence[Path] | None = None, against: Path | None = None, *,
    resamples: int = RESAMPLES, seed: int = SEED, language: str = "auto",
    check: Callable[[Sequence[Prediction], Path], list[Prediction]] | None = None,
) -> FileScore:  # fmt: skip
    """Return what is known about a predictions file.

    Args:
        path, reference: see `read_predictions`.
        against: another file of the same form, the baseline of a paired test; it shares `reference`.
        resamples: bootstrap resamples of the dialogues behind intervals and test.
        language: see `resolve`.
        check: returns the rows that are scored, given those of the file, or refuses them; see `as_submission`.

    Raises:
        FalconerError: see `read_predictions`, `check_same_turns` and `resolve`; or a file in a run's folder is not what
            its evaluation wrote.
    """
    for file in (path, against) if against else (path,):
        check_files(file.parent, [file.name])
    rows = read_predictions(path, reference)
    rows = check(rows, path) if check else rows
    found = resolve(language, [row.reference for row in rows])
    system = system_of(str(path), rows, found.code)
    gold = gold_system(rows, found.code)
    systems = [system]
    if against is not None:
        if against == path:
            raise FalconerError(f"--against names the scored file itself, '{path}'.", "Give another predictions file.")
        baseline = system_of(str(against), read_predictions(against, reference), found.code)
        baseline, system, gold = aligned([baseline, system, gold])
        systems = [baseline, system]
    caveats = caveats_of(gold, systems)
    system, gold, *_ = shown = [one.without(caveats.withheld) for one in (system, gold, *systems[:-1])]
    baselines = baseline_systems(rows, found.code, caveats.withheld)
    return FileScore(
        file=str(path),
        sha256=sha256(path),
        language=str(found),
        score=system.score,
        intervals=intervals(system.blocks, resamples, seed),
        baselines={name: one.score for name, one in baselines.items()},
        gold=gold.score,
        legacy=legacy_of(system),
        bootstrap=bootstrap_facts(system, resamples, seed),
        not_measured=caveats.not_measured,
        notes=caveats.notes,
        signatures=caveats.signatures,
        against=_against(shown[-1], system, resamples, seed) if against is not None else None,
    )


def _against(baseline: System, system: System, resamples: int, seed: int) -> Against:
    pair = [baseline, system]
    tests = compare_systems(pair, resamples, seed)[system.name]
    return Against(baseline.name, sha256(Path(baseline.name)), baseline.score, tests, sacrebleu_test(pair, resamples))
