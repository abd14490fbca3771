"""How predictions are kept in a file, and how anybody's are read."""

import gzip
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from falconer.errors import FalconerError
from falconer.evaluate.pair_files import bad_line, read_lines, read_texts, read_tsv
from falconer.files import replace_file
from falconer.records import Likelihood, Prediction, Ranks

# Names under which other programs write the two fields; the first one that a row holds is taken.
PREDICTION_KEYS = ("prediction", "hypothesis", "generated", "response", "output")
REFERENCE_KEYS = ("reference", "gold", "target", "label")
_EXAMPLE = 'Write one object a line: {"prediction": "...", "reference": "..."}.'
Measured = TypeVar("Measured", Likelihood, Ranks)


def read_predictions(path: Path, reference: Path | None = None) -> list[Prediction]:
    """Read predictions from JSON Lines, from tab-separated text, or from two text files; UTF-8, each also .gz.

    JSON Lines (.jsonl, .json, or any other name if the first line begins with a brace) need `prediction` and
    `reference`, or one of `PREDICTION_KEYS` and `REFERENCE_KEYS`. Optional: `dialogue_id` (text or number; else every
    row is a dialogue of its own), `turn`, `persona` and `history` (lists of text, oldest first), `ended`, `likelihood`
    and `ranks` (as `write_predictions` writes them). Other keys are ignored and blank lines passed over. A prediction
    may be empty, a reference may not. For the other two forms see `read_tsv` and `read_texts`.

    Args:
        reference: a text file of gold replies; then `path` holds one reply a line.

    Raises:
        FalconerError: a file can't be read, a line is not as said, or no row; names file, line, field.
    """
    if reference is not None:
        predictions = read_texts(path, reference)
    elif _is_tsv(path):
        predictions = read_tsv(path)
    else:
        predictions = [_read_row(row, number, path) for number, row in _rows(path)]
    if not predictions:
        raise FalconerError(f"'{path}' holds no predictions.", _EXAMPLE)
    return predictions


def write_predictions(predictions: Sequence[Prediction], path: Path) -> None:
    """Write predictions as JSON Lines, gzip-compressed if `path` ends in .gz; `read_predictions` gives them back.

    Raises:
        FalconerError: no space, or the folder can't be written to.
    """
    text = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in predictions)
    content = text.encode("utf-8")
    with replace_file(path) as aside:
        # mtime=0: the same predictions give the same bytes.
        aside.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def _is_tsv(path: Path) -> bool:
    kind = Path(path.name.removesuffix(".gz")).suffix
    if kind in (".tsv", ".jsonl", ".json"):
        return kind == ".tsv"
    first = next((line for line in read_lines(path) if line.strip()), "{")
    if not first.lstrip().startswith("{") and "\t" not in first:
        raise FalconerError(
            f"'{path}' holds neither JSON Lines nor tab-separated text.",
            "Name the file of the gold replies with --reference, if this is one reply a line.",
        )
    return not first.lstrip().startswith("{")


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise bad_line(path, number, f"is not JSON ({error.msg}, column {error.colno})", _EXAMPLE) from None
        if not isinstance(row, dict):
            raise bad_line(path, number, f"holds {_kind(row)}", _EXAMPLE)
        yield number, row


def _read_row(row: dict[str, Any], number: int, path: Path) -> Prediction:
    prediction, reference = _text(row, PREDICTION_KEYS, number, path), _text(row, REFERENCE_KEYS, number, path)
    if not reference.strip():
        raise bad_line(path, number, "has an empty reference", "Leave out rows that have no gold reply.")
    dialogue_id, turn, ended = row.get("dialogue_id"), row.get("turn", 0), row.get("ended")
    if isinstance(dialogue_id, bool) or not isinstance(dialogue_id, str | int | None):
        raise bad_line(path, number, f"field 'dialogue_id' holds {_kind(dialogue_id)}", "Write text or a number.")
    if isinstance(turn, bool) or not isinstance(turn, int):
        raise bad_line(path, number, f"field 'turn' holds {_kind(turn)}", "Write a whole number, or leave it out.")
    if not isinstance(ended, bool | None):
        raise bad_line(path, number, f"field 'ended' holds {_kind(ended)}", "Write true or false, or leave it out.")
    return Prediction(
        dialogue_id=str(number if dialogue_id is None else dialogue_id),
        turn=turn,
        prediction=prediction,
        reference=reference,
        persona=_texts(row, "persona", number, path),
        history=_texts(row, "history", number, path),
        ended=ended,
        likelihood=_measured(row, "likelihood", Likelihood, number, path),
        ranks=_measured(row, "ranks", Ranks, number, path),
    )


def _text(row: dict[str, Any], keys: tuple[str, ...], number: int, path: Path) -> str:
    key = next((key for key in keys if key in row), None)
    if key is None:
        given = ", ".join(map(repr, row)) or "no field"
        raise bad_line(path, number, f"has no field '{keys[0]}' (it has {given})", f"Name it {' or '.join(keys)}.")
    if not isinstance(row[key], str):
        raise bad_line(path, number, f"field '{key}' holds {_kind(row[key])}", 'Write text; an empty reply is "".')
    return str(row[key])


def _texts(row: dict[str, Any], key: str, number: int, path: Path) -> tuple[str, ...]:
    value = row.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise bad_line(path, number, f"field '{key}' holds no list of text", f'Write "{key}": ["...", "..."].')
    return tuple(value)


def _measured(row: dict[str, Any], key: str, record: type[Measured], number: int, path: Path) -> Measured | None:
    """Read what a model has measured, an object with the record's fields, all of them real numbers."""
    value, names = row.get(key), [field.name for field in fields(record)]
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) != set(names):
        raise bad_line(path, number, f"field '{key}' is no object with {', '.join(names)}", "Leave it out.")
    for name, item in value.items():
        if isinstance(item, bool) or not isinstance(item, int | float):
            raise bad_line(path, number, f"field '{key}.{name}' holds {_kind(item)}", "Write a number.")
        if not math.isfinite(item):
            hint = "The model gave no probability; evaluate again with model.dtype=fp32."
            raise bad_line(path, number, f"field '{key}.{name}' holds {item}, which is no number", hint)
    return record(**value)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
