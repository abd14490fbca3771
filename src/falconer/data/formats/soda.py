"""SODA: `dialogue` (list of texts) and `speakers` (a name for each), written by a model from `narrative`.

The second speaker, the one who answers, is the one who learns. The narrative and what it was made from describe what
happens, not a person, so there is no persona; a row with a narrative is counted. A conversation of three or more people
is left out and counted: a dialogue has two sides.
"""

from collections.abc import Iterable
from typing import Any

from falconer.data.files.row import Row, RowError
from falconer.data.formats.rows import Parsed, Quirks, as_list, check_replies, each, get
from falconer.data.formats.spoken import check_no_persona, turn
from falconer.records import Dialogue, Turn


def parse(rows: Iterable[Row | RowError], name: str, quirks: Quirks) -> Parsed:
    """Yield one Dialogue for each conversation of two people."""

    def one(line: int, row: dict[str, Any]) -> list[Dialogue]:
        texts, names = (as_list(get(row, key), key) for key in ("dialogue", "speakers"))
        if len(texts) != len(names):
            raise RowError(
                "speakers", f"has {len(names)} names for the {len(texts)} texts of dialogue; expected one each."
            )
        check_no_persona(row, "SODA")
        people = list(dict.fromkeys(str(who).strip() for who in names))
        if len(people) > 2:
            quirks["conversation of more than two people left out"] += 1
            return []
        turns: list[Turn] = []
        for i, (text, who) in enumerate(zip(texts, names, strict=True)):
            turns += turn("self" if str(who).strip() in people[1:] else "partner", text, f"dialogue[{i}]", quirks)
        found = check_replies(turns, "dialogue")
        quirks["narrative left out"] += bool(row.get("narrative"))
        return [Dialogue(f"{name}-{line:05d}", (), found)]

    return each(rows, one)
