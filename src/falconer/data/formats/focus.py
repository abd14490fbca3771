"""FoCus: `{"data": [...]}`, people who ask about a landmark and are answered in a way that fits them.

An entry holds `dialogID`, `persona` (five sentences about the one who asks), `knowledge`, and `utterance`, a list whose
items hold `dialogue1`, `dialogue2`, ...: the conversation up to that answer, question and answer in turn; the longest
one is the whole.

The answers are learned. Their prompt is to hold the persona, as in FoCus's own task, so it is the dialogue's `persona`
although it describes the one who asks. The knowledge that the answers draw on has no place in a dialogue: it is left
out and counted.
"""

import re
from collections.abc import Iterable
from typing import Any

from falconer.data.files.row import Row, RowError
from falconer.data.formats.rows import Parsed, Quirks, as_dict, as_list, check_replies, each, get
from falconer.data.formats.spoken import alternating, persona_of
from falconer.records import Dialogue

_DIALOGUE = re.compile(r"dialogu?e?\d*", re.IGNORECASE)


def parse(rows: Iterable[Row | RowError], name: str, quirks: Quirks) -> Parsed:
    """Yield one Dialogue for each entry."""

    def one(line: int, row: dict[str, Any]) -> list[Dialogue]:
        persona = persona_of(get(row, "persona"), "persona")
        whole: list[Any] = []
        where = "utterance"
        for i, item in enumerate(as_list(get(row, "utterance"), "utterance")):
            entry = as_dict(item, f"utterance[{i}]")
            # Parquet gives each item all the keys, of which it fills one.
            filled = [str(key) for key, value in entry.items() if value is not None]
            keys = sorted(filter(_DIALOGUE.fullmatch, filled), key=lambda key: (len(key), key))
            if not keys:
                raise RowError(f"utterance[{i}]", f"has no dialogue{i + 1}; it holds {', '.join(map(repr, filled))}.")
            for key in keys:
                where = f"utterance[{i}].{key}"
                whole = _longer(whole, as_list(entry[key], where), where)
        found = check_replies(alternating(whole, where, quirks), where)
        quirks["knowledge left out"] += bool(row.get("knowledge"))
        dialogue_id = str(row.get("dialogid") or f"{name}-{line:05d}")
        return [Dialogue(dialogue_id, persona, found)]

    return each(rows, one)


def _longer(whole: list[Any], texts: list[Any], field: str) -> list[Any]:
    """Return the conversation with the next item, which holds all of it up to there or the next question and answer."""
    if texts[: len(whole)] == whole:
        return texts
    if len(texts) == 2:
        return whole + texts
    raise RowError(field, "does not begin with the item before it; each item continues the one before, or is a pair.")
