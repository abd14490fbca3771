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

from falconer.data.formats.rows import Parsed, Quirks, Row, RowError, as_dict, as_list, check_replies, each, get
from falconer.data.formats.spoken import alternating, persona_of
from falconer.records import Dialogue

_DIALOGUE = re.compile(r"dialogu?e?\d*", re.IGNORECASE)


def parse(rows: Iterable[Row | RowError], name: str, quirks: Quirks) -> Parsed:
    """Yield one Dialogue for each entry."""

    def one(line: int, row: dict[str, Any]) -> list[Dialogue]:
        persona = persona_of(get(row, "persona"), "persona")
        longest: list[Any] = []
        where = "utterance"
        for i, item in enumerate(as_list(get(row, "utterance"), "utterance")):
            entry = as_dict(item, f"utterance[{i}]")
            # Parquet gives each item all the keys, of which it fills one.
            filled = [str(key) for key, value in entry.items() if value is not None]
            key = next(filter(_DIALOGUE.fullmatch, filled), "")
            if not key:
                raise RowError(f"utterance[{i}]", f"has no dialogue{i + 1}; it holds {', '.join(map(repr, filled))}.")
            texts = as_list(entry[key], f"utterance[{i}].{key}")
            if texts[: len(longest)] != longest:
                raise RowError(
                    f"utterance[{i}].{key}", "does not begin with the one before it; each goes on from there."
                )
            longest, where = texts, f"utterance[{i}].{key}"
        found = check_replies(alternating(longest, where, quirks), where)
        quirks["knowledge left out"] += bool(row.get("knowledge"))
        dialogue_id = str(row.get("dialogid") or f"{name}-{line:05d}")
        return [Dialogue(dialogue_id, persona, found)]

    return each(rows, one)
