"""What blind votes say of two systems: wins, ties, the share of wins with its interval, and a sign test."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from falconer.data.files.json_text import json_lines
from falconer.data.files.row import RowError, kind_of, shown
from falconer.data.files.text import read_file, text_of
from falconer.errors import FalconerError
from falconer.evaluate.text.json_rows import json_rows
from falconer.evaluate.text.row import Row, row_of
from falconer.files.json_value import NotJson, load_value

_Z95 = 1.959964
_SIDES = ("left", "right")


@dataclass(frozen=True, slots=True)
class Duel:
    """The votes between two systems.

    Args:
        systems: their names, in the alphabet's order.
        wins: of each.
        share: of the first one's wins among the votes for one of the two, 0-100; None without any.
        interval: Wilson's 95 % interval of the share.
        p: of the two-sided sign test of the share against one half.
    """

    systems: tuple[str, str]
    wins: tuple[int, int]
    ties: int
    share: float | None
    interval: tuple[float, float] | None
    p: float | None

    def to_json(self) -> dict[str, Any]:
        """Return what `falconer compare --json` prints of it."""
        return asdict(self)


def is_vote_file(path: Path) -> bool:
    """Tell whether the first row of a file is a vote; False for whatever can't be read as JSON Lines."""
    try:
        rows = _rows(path)
    except FalconerError:
        return False
    return bool(rows) and _is_vote(rows[0])


def duels(paths: Sequence[Path]) -> list[Duel]:
    """Count the votes of files that `falconer serve` or a report's page has saved, for each pair of systems.

    Raises:
        FalconerError: a file can't be read, or has a row that is no vote.
    """
    counts: dict[tuple[str, str], Counter[str]] = {}
    for path in paths:
        for row in _rows(path):
            (one, other), winner = _vote(row)
            counts.setdefault((one, other), Counter())[winner] += 1
    return [_duel(pair, counts[pair]) for pair in sorted(counts)]


def _rows(path: Path) -> list[Row]:
    """Return the votes of a file: JSON Lines, or the object that a report exports, which has them in a list."""
    text = text_of(read_file(path))
    try:
        first = load_value(text.strip().partition("\n")[0])
    except NotJson:
        first = None
    if not isinstance(first, dict) or "vote" not in first:
        return json_rows(text, path)
    found = []
    for item in json_lines(text):
        if isinstance(item, RowError) or not isinstance(item[1], dict):
            line, what = (item.line, item.message) if isinstance(item, RowError) else (item[0], "not an object.")
            raise FalconerError(f"{path}, line {line}: {what}", "Remove the line; a crash may have cut it off.")
        found.append(row_of(path, f"line {item[0]}", item[0], item[1]))
    return found


def _is_vote(row: Row) -> bool:
    return {"left", "right", "vote"} <= {name for name, _, _ in row.fields}


def _vote(row: Row) -> tuple[tuple[str, str], str]:
    """Return the two systems in the alphabet's order, and the winner's name or "" for a tie."""
    values = {name: value for name, _, value in row.fields}
    for name in (*_SIDES, "vote"):
        if not isinstance(values.get(name), str):
            raise row.bad(f"field '{name}' is {kind_of(values.get(name))}", "Expected rows that falconer serve wrote.")
    left, right, vote = (str(values[name]) for name in (*_SIDES, "vote"))
    if vote not in (*_SIDES, "tie"):
        raise row.bad(f"field 'vote' is {shown(vote)}", "Allowed: left, right, tie.")
    if left == right:
        raise row.bad(f"'left' and 'right' are both {shown(left)}", "A vote is between two systems.")
    winner = {"left": left, "right": right}.get(vote, "")
    return (min(left, right), max(left, right)), winner


def _duel(pair: tuple[str, str], counts: Counter[str]) -> Duel:
    wins = counts[pair[0]], counts[pair[1]]
    decided = sum(wins)
    share = 100 * wins[0] / decided if decided else None
    interval = wilson(wins[0], decided) if decided else None
    return Duel(pair, wins, counts[""], share, interval, sign_test(*wins) if decided else None)


def wilson(wins: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share, 0-100; it also holds for few votes and near 0 and 100."""
    share, square = wins / count, _Z95 * _Z95
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = _Z95 / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


def sign_test(wins: int, losses: int) -> float:
    """Return the two-sided p of as uneven a result if either system won with probability one half."""
    count = wins + losses
    # In whole numbers: floats could not hold the coefficients of a thousand votes.
    tail = coefficient = 1
    for k in range(min(wins, losses)):
        coefficient = coefficient * (count - k) // (k + 1)
        tail += coefficient
    return min(1.0, 2 * tail / 2**count)
