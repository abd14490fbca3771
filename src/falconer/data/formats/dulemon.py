"""DuLeMon (Chinese), both parts.

- BOTH: `bot_persona` is that of the one who learns, `user_said_persona` and `user_no_said_persona` (what the user told
  and did not tell before) are the partner's; `conversation` holds "Usr: ..." and "Bot: ..." in turn.
- SELF: `p1_persona`, `p2_persona` and "P1: ...", "P2: ..."; P2 answers and is the one who learns.

Sentences may be numbered ("B1: ...", "U1: ..."), and a turn may end in the numbers of those it rests on, behind a tab:
the numbers are dropped, the latter counted. The words are spaced as in the file.
"""

import re
from collections.abc import Iterable
from typing import Any

from falconer.data.files.row import Row, RowError
from falconer.data.formats.rows import Parsed, Quirks, as_list, as_text, check_replies, each, get
from falconer.data.formats.spoken import persona_of, turn
from falconer.records import Dialogue, Turn

_MARK = re.compile(r"(?<!\s)\s*+(?:[BUP]\d*|bot|user|usr)\s*[:\uff1a]\s*", re.IGNORECASE)
_SPEAKER = re.compile(r"\s*(bot|usr|user|p1|p2)\s*[:\uff1a]\s*", re.IGNORECASE)


def parse(rows: Iterable[Row | RowError], name: str, quirks: Quirks) -> Parsed:
    """Yield one Dialogue for each conversation."""

    def one(line: int, row: dict[str, Any]) -> list[Dialogue]:
        is_both = "bot_persona" in row
        own = ("bot_persona",) if is_both else ("p2_persona",)
        other = ("user_said_persona", "user_no_said_persona") if is_both else ("p1_persona",)
        get(row, own[0])
        turns: list[Turn] = []
        for i, item in enumerate(as_list(get(row, "conversation"), "conversation")):
            where = f"conversation[{i}]"
            text, *grounding = as_text(item, where).split("\t")
            quirks["grounding marks ignored"] += bool(grounding)
            label = _SPEAKER.match(text)
            if not label:
                raise RowError(where, f"is {text[:30]!r}; expected 'Usr: ...' or 'Bot: ...' ('P1: ...' or 'P2: ...').")
            side = label[1].lower()
            turns += turn("self" if side in ("bot", "p2") else "partner", text[label.end() :], where, quirks)
        found = check_replies(turns, "conversation")
        return [Dialogue(f"{name}-{line:05d}", _persona(row, own), found, _persona(row, other))]

    return each(rows, one)


def _persona(row: dict[str, Any], keys: tuple[str, ...]) -> tuple[str, ...]:
    numbered = [sentence for key in keys for sentence in persona_of(row.get(key), key)]
    return tuple(text for text in (_MARK.sub("", sentence, count=1).strip() for sentence in numbered) if text)
