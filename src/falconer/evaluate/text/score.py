"""How anybody's predictions score: figures, intervals and floors of one file, and a paired test against another."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from falconer.data.language import resolve
from falconer.errors import FalconerError
from falconer.evaluate.text.baselines import floor_rows
from falconer.evaluate.text.bootstrap import RESAMPLES, SEED, intervals
from falconer.evaluate.text.compare import (
    System,
    aligned,
    bootstrap_facts,
    compare_systems,
    describe,
    gold_system,
    legacy_of,
    measured_parts,
    sacrebleu_test,
    system_of,
)
from falconer.evaluate.text.predictions import read_predictions
from falconer.files import sha256


def score_file(
    path: Path, reference: Path | Sequence[Path] | None = None, against: Path | None = None, *,
    resamples: int = RESAMPLES, seed: int = SEED, language: str = "auto",
) -> dict[str, Any]:  # fmt: skip
    """Return what is known about a predictions file, ready for JSON.

    Args:
        path, reference: see `read_predictions`.
        against: another file of the same form, the baseline of a paired test; it shares `reference`.
        resamples: bootstrap resamples of the dialogues behind intervals and test.
        language: see `resolve`.

    Returns:
        `file`, `sha256`; the fields of `Score` (None where a figure needs the model, persona or history); `intervals`
        (for each figure [low, high]); `floors` (the fields of `Score` for each trivial floor that the rows allow);
        `gold` (those of the gold replies themselves); `legacy`; `bootstrap`; `language` (its code, and how it is
        known); `not_measured`, `notes` and `signatures` (see `measured_parts`). With `against` also
        `baseline` (its `file`, `sha256` and fields of `Score`), `tests` and `sacrebleu` as in `compare.comparison`.

    Raises:
        FalconerError: see `read_predictions`, `check_same_turns` and `resolve`.
    """
    rows = read_predictions(path, reference)
    found = resolve(language, [row.reference for row in rows])
    system = system_of(str(path), rows, found.code)
    gold = gold_system(rows, found.code)
    systems = [system]
    if against is not None:
        if against == path:
            raise FalconerError(f"--against names '{path}' itself.", "Give another predictions file.")
        baseline = system_of(str(against), read_predictions(against, reference), found.code)
        baseline, system, gold = aligned([baseline, system, gold])
        systems = [baseline, system]
    withheld, parts = measured_parts(gold, systems)
    system, gold, *_ = shown = [one.without(withheld) for one in (system, gold, *systems[:-1])]
    floors = [system_of(name, some, found.code) for name, some in floor_rows(rows, found.code).items()]
    return {
        "file": str(path),
        "sha256": sha256(path),
        "language": str(found),
        **asdict(system.score),
        "intervals": intervals(system.blocks, resamples, seed),
        "floors": {floor.name: asdict(floor.without(withheld).score) for floor in floors},
        "gold": asdict(gold.score),
        "legacy": legacy_of(system),
        "bootstrap": bootstrap_facts(system, resamples, seed),
        **parts,
        **(_against(shown[-1], system, resamples, seed) if against is not None else {}),
    }


def _against(baseline: System, system: System, resamples: int, seed: int) -> dict[str, Any]:
    pair = [baseline, system]
    return {
        "baseline": {"file": baseline.name, "sha256": sha256(Path(baseline.name)), **asdict(baseline.score)},
        "tests": [describe(test) for test in compare_systems(pair, resamples, seed)[system.name]],
        "sacrebleu": sacrebleu_test(pair, resamples),
    }
