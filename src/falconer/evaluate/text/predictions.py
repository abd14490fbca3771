"""Writing predictions to a file, and reading those of any program."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from falconer.errors import FalconerError
from falconer.evaluate.text.gold_files import gold_of_files, gold_rows
from falconer.evaluate.text.history import history_of, written
from falconer.evaluate.text.json_rows import EXAMPLE
from falconer.evaluate.text.pair_files import read_rows
from falconer.evaluate.text.row import Row
from falconer.evaluate.text.row_fields import (
    PREDICTION_KEYS,
    REFERENCE_KEYS,
    TEXT_KEYS,
    dialogue_of,
    ended_of,
    field_names,
    measured_of,
    name_for,
    prediction_of,
    references_of,
    texts_of,
    turn_of,
)
from falconer.files.replace import replace_file
from falconer.records import Likelihood, Prediction, Ranks


def read_predictions(path: Path, reference: Path | Sequence[Path] | None = None) -> list[Prediction]:
    """Read predictions from JSON, from a table, or from text beside the gold replies of other files.

    JSON is JSON Lines, an array, or an object of parallel lists; a table is TSV or CSV, with a header unless it is
    `prediction<TAB>reference`. UTF-8, or UTF-16 with its mark; each also .gz or .zst. A row needs `prediction` and
    `reference`, or one of `PREDICTION_KEYS` and `REFERENCE_KEYS` in any case; several gold replies are a list, or stand
    in `reference_1`, `reference_2`, ... Optional: `dialogue_id` (text or number; else every row is a dialogue of its
    own), `turn`, `persona` (a list of texts) and `history` (a list of turns, oldest first, see `history_of`); in JSON
    also `ended`, `likelihood` and `ranks` (as `write_predictions` writes them). Other fields are ignored and blank
    lines passed over. A prediction may be empty, a reference may not.

    Args:
        reference: a file of gold replies, or several, each with a gold reply for each row; then `path` needs none.

    Raises:
        FalconerError: a file can't be read, a line is not as said, or no row; names file, line, field.
    """
    references = [] if reference is None else [reference] if isinstance(reference, Path) else list(reference)
    rows = read_rows(path, is_one_text=bool(references))
    if not rows and not references:
        raise FalconerError(f"'{path}' contains no predictions.", EXAMPLE)
    # For each row, the rows of the files of gold replies that belong to it.
    golds = [gold_rows(rows, path, read_rows(one, is_one_text=True), one) for one in references]
    if not rows:
        raise FalconerError(f"'{path}' contains no predictions.", EXAMPLE)
    found = [(row, [gold[i] for gold in golds]) for i, row in enumerate(rows)]
    # In the order of the gold replies, so that systems that are compared have one order.
    found.sort(key=lambda pair: pair[1][0].number if pair[1] else pair[0].number)
    return [_prediction(row, gold) for row, gold in found]


def write_predictions(predictions: Sequence[Prediction], path: Path) -> None:
    """Write predictions as JSON Lines, gzip-compressed if `path` ends in .gz; `read_predictions` gives them back.

    Raises:
        FalconerError: no space, or the folder can't be written to.
    """
    content = predictions_text(predictions).encode("utf-8")
    with replace_file(path) as aside:
        # mtime=0: the same predictions give the same bytes.
        aside.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def predictions_text(predictions: Sequence[Prediction]) -> str:
    """Return what a predictions file of falconer holds."""
    return "".join(json.dumps(_written(row), ensure_ascii=False) + "\n" for row in predictions)


def _written(row: Prediction) -> dict[str, Any]:
    fields = asdict(row) | {"history": written(row.history)}
    if not row.other_references:
        del fields["other_references"]
    return fields


def _prediction(row: Row, golds: Sequence[Row]) -> Prediction:
    # A file beside its gold replies may call its texts anything.
    is_text = bool(golds) and not row.named(PREDICTION_KEYS) and bool(row.named(TEXT_KEYS))
    prediction = prediction_of(row, TEXT_KEYS if is_text else PREDICTION_KEYS)
    references = gold_of_files(row, golds) if golds else references_of(row)
    if not references:
        problem = f"the field '{REFERENCE_KEYS[0]}' is missing; the row has {field_names(row)}"
        raise row.bad(problem, f"Name it {name_for(REFERENCE_KEYS)}, or give a file of gold replies with --reference.")
    told = (row, *golds)
    return Prediction(
        dialogue_id=next((name for name in map(dialogue_of, told) if name is not None), str(row.number)),
        turn=next((turn for turn in map(turn_of, told) if turn is not None), 0),
        prediction=prediction,
        reference=references[0],
        persona=next((texts for one in told if (texts := texts_of(one, "persona"))), ()),
        history=next((turns for one in told if (turns := history_of(one))), ()),
        ended=ended_of(row),
        likelihood=measured_of(row, "likelihood", Likelihood),
        ranks=measured_of(row, "ranks", Ranks),
        other_references=references[1:],
    )
