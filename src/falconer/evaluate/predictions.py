"""How predictions are kept in a file, how anybody's are read, and how such a file scores."""

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from falconer.errors import FalconerError
from falconer.evaluate.floors import floor_predictions
from falconer.evaluate.metrics import signatures, text_score
from falconer.files import replace_file, sha256
from falconer.records import Prediction, Score

# Names under which other programs write the two fields; the first one that a row holds is taken.
PREDICTION_KEYS = ("prediction", "hypothesis", "generated", "response", "output")
REFERENCE_KEYS = ("reference", "gold", "target", "label")
_EXAMPLE = 'Write one object a line: {"prediction": "...", "reference": "..."}.'


def score_predictions(predictions: Sequence[Prediction]) -> Score:
    """Score predictions as `text_score` does, and add `ended_share` where every one says whether it ended by itself.

    Raises:
        FalconerError: there are none.
    """
    score = text_score([row.prediction for row in predictions], [row.reference for row in predictions])
    ended = [row.ended for row in predictions if row.ended is not None]
    if len(ended) < len(predictions):
        return score
    return Score(**{**asdict(score), "ended_share": 100 * sum(ended) / len(ended)})


def score_file(path: Path) -> dict[str, Any]:
    """Return what is known about a predictions file, ready for JSON.

    Keys: `file`, `sha256`, the fields of `Score` (None where a figure needs the model), `floors` (a name and the fields
    of `Score` for each trivial floor that the rows allow), `signatures`.

    Raises:
        FalconerError: see `read_predictions`.
    """
    predictions = read_predictions(path)
    references = [row.reference for row in predictions]
    floors = {name: asdict(text_score(texts, references)) for name, texts in floor_predictions(predictions).items()}
    known = {"file": str(path), "sha256": sha256(path), **asdict(score_predictions(predictions))}
    return {**known, "floors": floors, "signatures": signatures()}


def read_predictions(path: Path) -> list[Prediction]:
    """Read predictions from JSON Lines (.jsonl, also .gz), UTF-8, one object a line; blank lines are passed over.

    Needed: `prediction` and `reference`, or one of `PREDICTION_KEYS` and `REFERENCE_KEYS`. Optional: `dialogue_id`
    (text or number; else every row is a dialogue of its own), `turn`, `persona` and `history` (lists of text, oldest
    first), `ended`. Other keys are ignored. A prediction may be empty, a reference may not.

    Raises:
        FalconerError: the file can't be read, a line is not such an object, or no row; names file, line, field.
    """
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


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            # utf-8-sig: some editors put a byte order mark in front.
            row = json.loads(line.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise _bad(path, number, f"is not UTF-8 (byte {error.start + 1})", "Save the file as UTF-8.") from None
        except json.JSONDecodeError as error:
            raise _bad(path, number, f"is not JSON ({error.msg}, column {error.colno})", _EXAMPLE) from None
        if not isinstance(row, dict):
            raise _bad(path, number, f"holds {_kind(row)}", _EXAMPLE)
        yield number, row


def _lines(path: Path) -> list[bytes]:
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).splitlines()
    except FileNotFoundError:
        raise FalconerError(f"There is no file '{path}'.", "Give a predictions file (.jsonl or .jsonl.gz).") from None
    except IsADirectoryError:
        raise FalconerError(f"'{path}' is a folder.", "Give the predictions file in it.") from None
    except (gzip.BadGzipFile, EOFError):
        raise FalconerError(f"'{path}' is not a whole gzip file.", "Compress it again.") from None
    except OSError as error:
        raise FalconerError(f"'{path}' can't be read: {error.strerror}.", "Give a file that you may read.") from None


def _read_row(row: dict[str, Any], number: int, path: Path) -> Prediction:
    prediction, reference = _text(row, PREDICTION_KEYS, number, path), _text(row, REFERENCE_KEYS, number, path)
    if not reference.strip():
        raise _bad(path, number, "has an empty reference", "Leave out rows that have no gold reply.")
    dialogue_id, turn, ended = row.get("dialogue_id"), row.get("turn", 0), row.get("ended")
    if isinstance(dialogue_id, bool) or not isinstance(dialogue_id, str | int | None):
        raise _bad(path, number, f"field 'dialogue_id' holds {_kind(dialogue_id)}", "Write text or a number.")
    if isinstance(turn, bool) or not isinstance(turn, int):
        raise _bad(path, number, f"field 'turn' holds {_kind(turn)}", "Write a whole number, or leave it out.")
    if not isinstance(ended, bool | None):
        raise _bad(path, number, f"field 'ended' holds {_kind(ended)}", "Write true or false, or leave it out.")
    return Prediction(
        dialogue_id=str(number if dialogue_id is None else dialogue_id),
        turn=turn,
        prediction=prediction,
        reference=reference,
        persona=_texts(row, "persona", number, path),
        history=_texts(row, "history", number, path),
        ended=ended,
    )


def _text(row: dict[str, Any], keys: tuple[str, ...], number: int, path: Path) -> str:
    key = next((key for key in keys if key in row), None)
    if key is None:
        given = ", ".join(map(repr, row)) or "no field"
        raise _bad(path, number, f"has no field '{keys[0]}' (it has {given})", f"Name it {' or '.join(keys)}.")
    if not isinstance(row[key], str):
        raise _bad(path, number, f"field '{key}' holds {_kind(row[key])}", 'Write text; an empty reply is "".')
    return str(row[key])


def _texts(row: dict[str, Any], key: str, number: int, path: Path) -> tuple[str, ...]:
    value = row.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _bad(path, number, f"field '{key}' holds no list of text", f'Write "{key}": ["...", "..."].')
    return tuple(value)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _bad(path: Path, number: int, problem: str, hint: str) -> FalconerError:
    return FalconerError(f"{path}, line {number}: {problem}.", hint)
