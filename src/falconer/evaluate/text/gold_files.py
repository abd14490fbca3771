"""Gold replies from files of their own: which row belongs to which reply, and what each file provides."""

from collections.abc import Callable, Sequence
from pathlib import Path

from falconer.data.files.row import shown
from falconer.errors import FalconerError
from falconer.evaluate.text.row import Row
from falconer.evaluate.text.row_fields import dialogue_of, gold_of, references_of, row_id, says_gold, turn_of


def gold_rows(rows: Sequence[Row], path: Path, gold: Sequence[Row], gold_path: Path) -> list[Row]:
    """Return for each row of a predictions file the row of a --reference file that is about the same turn.

    Where both files tell rows apart, by `id` or by `dialogue_id` and `turn`, that decides; else the order does.

    Raises:
        FalconerError: they have not as many rows, or not the same ids.
    """
    for identify in (row_id, _turn_id):
        ids, gold_ids = _ids(rows, identify), _ids(gold, identify)
        if not ids or not gold_ids:
            continue
        if len(set(ids)) < len(ids) or len(set(gold_ids)) < len(gold_ids):
            _check_counts(rows, path, gold, gold_path)
            for row, one, other in zip(rows, ids, gold_ids, strict=True):
                if one != other:
                    problem = f"its id is {shown(one)}, but that of the same row in '{gold_path}' is {shown(other)}"
                    raise row.bad(problem, "Write both files in the same order, or give each row a unique id.")
            return list(gold)
        by_id = dict(zip(gold_ids, gold, strict=True))
        for row, one in zip(rows, ids, strict=True):
            if one not in by_id:
                problem = f"its id is {shown(one)}, which does not occur in '{gold_path}'"
                raise row.bad(problem, "Both files must have the same turns.")
        given = set(ids)
        for row, one in zip(gold, gold_ids, strict=True):
            if one not in given:
                problem = f"its id is {shown(one)}, which does not occur in '{path}'"
                raise row.bad(problem, "Both files must have the same turns.")
        return [by_id[one] for one in ids]
    _check_counts(rows, path, gold, gold_path)
    return list(gold)


def gold_of_files(row: Row, golds: Sequence[Row]) -> tuple[str, ...]:
    """Return the gold replies that further files give to a row, the first file's first.

    Raises:
        FalconerError: a file has an empty one, or the row itself names another gold reply.
    """
    found = tuple(text for gold in golds for text in gold_of(gold))
    if says_gold(row):
        own = references_of(row)
        if not set(own) <= set(found):
            problem = f"its gold reply is {shown(own[0])}, but in {golds[0].path}, {golds[0].place}, {shown(found[0])}"
            raise row.bad(problem, "Leave out --reference, or remove the gold replies from this file.")
    return found


def _check_counts(rows: Sequence[Row], path: Path, gold: Sequence[Row], gold_path: Path) -> None:
    if len(rows) != len(gold):
        what = "lines" if all(row.place.startswith("line") for row in (*rows, *gold)) else "rows"
        raise FalconerError(
            f"'{path}' has {len(rows):,} {what}, but '{gold_path}' has {len(gold):,}.",
            "Write one reply a line for each gold reply; an empty reply is an empty line.",
        )


def _ids(rows: Sequence[Row], identify: Callable[[Row], str | None]) -> list[str]:
    """Return the rows' ids, none if a row has none."""
    found = [one for row in rows if (one := identify(row)) is not None]
    return found if len(found) == len(rows) else []


def _turn_id(row: Row) -> str | None:
    dialogue = dialogue_of(row)
    return None if dialogue is None else f"{dialogue}, turn {turn_of(row) or 0}"
