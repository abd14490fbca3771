"""The files in a sweep's folder: their names, and reading and writing them.

sweep.json            the plan; a sweep continues only with the same one
runs/NAME/            each run, as `falconer train` writes it
measured/NAME.jsonl   its replies to the validation dialogues, as `falconer score` reads them
measured/NAME.json    the likelihood of every gold reply, and which dialogues these are; written last
logs/NAME.log         what the run's processes have printed
results.json          the answer: figures, tests and verdicts
sweep.md              the same as a table
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from falconer.errors import FalconerError
from falconer.evaluate.measure import Evaluated
from falconer.evaluate.text.predictions import read_predictions, write_predictions
from falconer.files.json_record import read_text
from falconer.files.replace import replace_file
from falconer.records import Likelihood
from falconer.run.metrics import checked
from falconer.sweep.plan import Plan

PLAN, RESULTS, TABLE = "sweep.json", "results.json", "sweep.md"
_HINT = "Restore the file that this sweep wrote, or start a new sweep with another --out."
_AGAIN = "Remove it: the sweep then measures the run again."


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured of a run besides its replies.

    Args:
        data: the validation dialogues in words.
        language: of their replies, as an ISO 639 code.
        dialogue_ids, likelihoods: of every gold reply; None where truncation dropped the reply.
    """

    data: str
    language: str
    dialogue_ids: tuple[str, ...]
    likelihoods: tuple[Likelihood | None, ...]


def run_name(setting: int, seed: int, part: tuple[int, int] | None = None) -> str:
    """Return the name of a run.

    Args:
        part: (1, 4) where a quarter of the training is done.
    """
    return f"setting-{setting:02d}-seed-{seed}" + (f"-part-{part[0]}-of-{part[1]}" if part else "")


def run_folder(sweep: Path, name: str) -> Path:
    return sweep / "runs" / name


def log_file(sweep: Path, name: str) -> Path:
    return sweep / "logs" / f"{name}.log"


def is_measured(sweep: Path, name: str) -> bool:
    """Return whether a run has been trained and measured."""
    return os.path.isfile(_replies(sweep, name)) and os.path.isfile(_measurement(sweep, name))


def write_measured(sweep: Path, name: str, found: Evaluated, data: str, language: str) -> None:
    """Write what was measured of a run; replies first, so that the other file says that both are there."""
    _replies(sweep, name).parent.mkdir(parents=True, exist_ok=True)
    write_predictions(found.predictions, _replies(sweep, name))
    measurement = Measurement(data, language, tuple(found.dialogue_ids), tuple(found.likelihoods))
    _write(_measurement(sweep, name), json.dumps(asdict(measurement)) + "\n")


def read_measured(sweep: Path, name: str) -> tuple[Evaluated, Measurement]:
    """Return what was measured of a run.

    Raises:
        FalconerError: a file is damaged.
    """
    path = _measurement(sweep, name)
    measurement = checked(Measurement, read_text(path, _AGAIN), path, _AGAIN)
    rows = read_predictions(_replies(sweep, name))
    return Evaluated(rows, list(measurement.likelihoods), list(measurement.dialogue_ids)), measurement


def begin(sweep: Path, plan: Plan | None) -> Plan:
    """Write the plan of a new sweep, or return that of one that was started before.

    Args:
        plan: None: continue whatever was started.

    Raises:
        FalconerError: no plan is given and none is there; another one is there, or it is damaged.
    """
    path = sweep / PLAN
    if not os.path.lexists(path):
        if plan is None:
            raise FalconerError(
                f"'{sweep}' contains no sweep to continue.",
                "Give the keys that vary, for example: falconer sweep train.learning_rate=1e-4,2e-4 --seeds 3",
            )
        sweep.mkdir(parents=True, exist_ok=True)
        _write(path, json.dumps(asdict(plan), indent=1) + "\n")
        return plan
    before = checked(Plan, read_text(path, _HINT), path, _HINT)
    if plan is not None and plan != before:
        changed = [name for name in Plan.__slots__ if getattr(plan, name) != getattr(before, name)]
        raise FalconerError(
            f"'{sweep}' contains another sweep: {', '.join(_shown(name) for name in changed)} differ.",
            f"Continue that one with: falconer sweep --out {sweep}; or choose another folder with --out.",
        )
    return before


def write_results(sweep: Path, results: dict[str, Any], lines: Sequence[str]) -> None:
    """Write the answer as JSON and as Markdown."""
    _write(sweep / RESULTS, json.dumps(results, indent=1, allow_nan=False) + "\n")
    _write(sweep / TABLE, "\n".join(lines) + "\n")


def _shown(name: str) -> str:
    shown = {"base": "the common settings", "axes": "the keys that vary", "keep": "--halving"}
    shown["search"] = "ranges, --trials or --finalists"
    return shown.get(name, f"--{name}")


def _replies(sweep: Path, name: str) -> Path:
    return sweep / "measured" / f"{name}.jsonl"


def _measurement(sweep: Path, name: str) -> Path:
    return sweep / "measured" / f"{name}.json"


def _write(path: Path, text: str) -> None:
    with replace_file(path) as aside:
        aside.write_text(text, encoding="utf-8")
