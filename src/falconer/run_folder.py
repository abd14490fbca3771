"""The files of a run's folder that say what it is: its configuration and its records, read and written."""

import json
from pathlib import Path
from typing import Any

import yaml

from falconer.config import Config, from_recorded
from falconer.errors import FalconerError
from falconer.files import replace_file

CONFIG = "config.yaml"
RECORD = "run.json"
# Hashes of the dialogues: many and of no interest to a reader, so they stay out of run.json.
SPLITS = "splits.json"
_HINT = "Put back the file that this run wrote."


def read_config(run: Path) -> Config:
    """Return the resolved configuration of a run.

    Raises:
        FalconerError: the folder holds no run, or a damaged configuration.
    """
    path = run / CONFIG
    if not path.is_file():
        raise FalconerError(
            f"'{run}' holds no run ({CONFIG} is missing).", "Give the folder that falconer train --run wrote."
        )
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        what = str(error).splitlines()[0]
        raise FalconerError(f"'{path}' is damaged: {what}.", _HINT) from error
    if not isinstance(tree, dict):
        raise FalconerError(f"'{path}' is damaged: it holds no sections.", _HINT)
    return from_recorded(tree)


def write_config(run: Path, config: Config) -> None:
    """Write the resolved configuration."""
    with replace_file(run / CONFIG) as aside:
        aside.write_text(yaml.safe_dump(config.model_dump(), sort_keys=False), encoding="utf-8")


def write_run(run: Path, config: Config, record: dict[str, Any]) -> None:
    """Write the resolved configuration, and what can only be known at run time: versions, hashes, which path runs."""
    with replace_file(run / RECORD) as aside:
        aside.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    write_config(run, config)


def read_record(run: Path) -> dict[str, Any]:
    """Return what a run wrote down when it began.

    Raises:
        FalconerError: run.json is missing or damaged.
    """
    return _read_json(run / RECORD)


def write_splits(run: Path, splits: dict[str, Any]) -> None:
    """Write the hashes of a run's dialogues, see `data.recorded.pack`."""
    with replace_file(run / SPLITS) as aside:
        aside.write_text(json.dumps(splits) + "\n", encoding="utf-8")


def read_splits(run: Path) -> dict[str, Any] | None:
    """Return the hashes of a run's dialogues; None for a run of a version that did not keep them.

    Raises:
        FalconerError: splits.json is damaged.
    """
    return _read_json(run / SPLITS) if (run / SPLITS).exists() else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FalconerError(f"'{path}' can't be read: {error.strerror}.", _HINT) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FalconerError(f"'{path}' is damaged: {error}.", _HINT) from error
    if not isinstance(record, dict):
        raise FalconerError(f"'{path}' is damaged: it holds no record.", _HINT)
    return record
