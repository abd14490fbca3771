"""How anybody's predictions score: figures, intervals and floors of one file, and a paired test against another."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from falconer.errors import FalconerError
from falconer.evaluate.compare import (
    System,
    aligned,
    bootstrap_facts,
    compare_systems,
    describe,
    sacrebleu_test,
    system_of,
)
from falconer.evaluate.floors import floor_rows, replies_in_place
from falconer.evaluate.intervals import RESAMPLES, SEED, intervals
from falconer.evaluate.metrics import score_predictions, signatures
from falconer.evaluate.pairs import legacy
from falconer.evaluate.predictions import read_predictions
from falconer.files import sha256


def score_file(
    path: Path, reference: Path | Sequence[Path] | None = None, against: Path | None = None, *,
    resamples: int = RESAMPLES, seed: int = SEED,
) -> dict[str, Any]:  # fmt: skip
    """Return what is known about a predictions file, ready for JSON.

    Args:
        path, reference: see `read_predictions`.
        against: another file of the same form, the baseline of a paired test; it shares `reference`.
        resamples: bootstrap resamples of the dialogues behind intervals and test.

    Returns:
        `file`, `sha256`; the fields of `Score` (None where a figure needs the model, persona or history); `intervals`
        (for each figure [low, high]); `floors` (the fields of `Score` for each trivial floor that the rows allow);
        `gold` (those of the gold replies themselves); `legacy`; `bootstrap`; `signatures`. With `against` also
        `baseline` (its `file`, `sha256` and fields of `Score`), `tests` and `sacrebleu` as in `compare.comparison`.

    Raises:
        FalconerError: see `read_predictions` and `check_same_turns`.
    """
    system = system_of(str(path), read_predictions(path, reference))
    compared: dict[str, Any] = {}
    if against is not None:
        if against == path:
            raise FalconerError(f"--against names '{path}' itself.", "Give another predictions file.")
        baseline, system = aligned([system_of(str(against), read_predictions(against, reference)), system])
        compared = _against(baseline, system, resamples, seed)
    rows = system.predictions
    golds = [row.reference for row in rows]
    return {
        "file": str(path),
        "sha256": sha256(path),
        **asdict(system.score),
        "intervals": intervals(system.blocks, resamples, seed),
        "floors": {name: asdict(score_predictions(some)) for name, some in floor_rows(rows).items()},
        "gold": asdict(score_predictions(replies_in_place(rows, golds))),
        "legacy": legacy([row.prediction for row in rows], golds),
        "bootstrap": bootstrap_facts(system, resamples, seed),
        "signatures": signatures(),
        **compared,
    }


def _against(baseline: System, system: System, resamples: int, seed: int) -> dict[str, Any]:
    pair = [baseline, system]
    return {
        "baseline": {"file": baseline.name, "sha256": sha256(Path(baseline.name)), **asdict(baseline.score)},
        "tests": [describe(test) for test in compare_systems(pair, resamples, seed)[system.name]],
        "sacrebleu": sacrebleu_test(pair, resamples),
    }
