"""Xpersona (seven languages): `persona` (list) and `dialogue`, a list of pairs [partner, self]; `meta` in some copies.

The last pair may lack its answer, and a side may be an empty text: such a turn is not there. What stands behind the two
texts of a pair is no text of the dialogue; it is left out and counted.
"""

from collections.abc import Iterable
from typing import Any

from falconer.data.files.row import Row, RowError
from falconer.data.formats.rows import Parsed, Quirks, as_list, check_replies, each, get
from falconer.data.formats.spoken import persona_of, turn
from falconer.records import Dialogue, Speaker, Turn

_SIDES: tuple[Speaker, Speaker] = ("partner", "self")


def parse(rows: Iterable[Row | RowError], name: str, quirks: Quirks) -> Parsed:
    """Yield one Dialogue for each row."""

    def one(line: int, row: dict[str, Any]) -> list[Dialogue]:
        key = "persona" if "persona" in row or "meta" not in row else "meta"
        persona = persona_of(get(row, key), key)
        turns: list[Turn] = []
        for i, item in enumerate(as_list(get(row, "dialogue"), "dialogue")):
            where = f"dialogue[{i}]"
            if isinstance(item, str):
                raise RowError(where, "is text; expected a pair [partner, self] of texts.")
            pair = as_list(item, where)
            if not pair:
                raise RowError(where, "is an empty list; expected a pair [partner, self] of texts.")
            quirks["further items of a pair left out"] += max(len(pair) - 2, 0)
            for k, side in enumerate(_SIDES[: len(pair)]):
                turns += turn(side, pair[k], f"{where}[{k}]", quirks)
        return [Dialogue(f"{name}-{line:05d}", persona, check_replies(turns, "dialogue"))]

    return each(rows, one)
