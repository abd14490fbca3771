"""DailyDialog: a conversation a line, its turns ended by `__eou__`; or rows with a list of turns.

Rows hold `dialog` or `utterances` (texts, as on the hub), or `dialogue` (objects with `text`, as in ParlAI's copy).
There are no personas. The two speakers take turns, and the second one's replies are learned; emotions, acts and topics
are left out.
"""

from collections.abc import Iterable
from typing import Any

from falconer.data.formats.rows import Parsed, Quirks, Row, RowError, as_dict, as_list, check_replies, each, get
from falconer.data.formats.spoken import alternating
from falconer.records import Dialogue

_END = "__eou__"


def is_dailydialog(text: str) -> bool:
    """Tell whether a text's first lines hold DailyDialog's mark of a turn's end."""
    return _END in text[:20_000]


def parse_text(text: str, name: str, quirks: Quirks) -> Parsed:
    """Yield one Dialogue for each line with more than one turn."""

    def one(line: int, row: dict[str, Any]) -> list[Dialogue]:
        content: str = row["text"]
        if _END not in content:
            raise RowError("line", f"has no {_END}; expected it behind each turn. Join the lines of one conversation.")
        texts = [part.strip() for part in content.split(_END)]
        if not texts[-1]:
            texts.pop()  # what stands behind the last mark
        if len(texts) < 2:
            quirks["conversation of one turn left out"] += 1
            return []
        return [Dialogue(f"{name}-{line:05d}", (), check_replies(alternating(texts, "turns", quirks), "turns"))]

    numbered = enumerate(text.split("\n"), start=1)
    return each(((line, {"text": content}) for line, content in numbered if content.strip()), one)


def parse(rows: Iterable[Row | RowError], name: str, quirks: Quirks) -> Parsed:
    """Yield one Dialogue for each row with more than one turn."""

    def one(line: int, row: dict[str, Any]) -> list[Dialogue]:
        key = next((key for key in ("dialog", "utterances", "dialogue") if key in row), "dialog")
        items = as_list(get(row, key), key)
        texts = [
            get(as_dict(item, f"{key}[{i}]"), "text", f"{key}[{i}].") if isinstance(item, dict) else item
            for i, item in enumerate(items)
        ]
        if len(texts) < 2:
            quirks["conversation of one turn left out"] += 1
            return []
        return [Dialogue(f"{name}-{line:05d}", (), check_replies(alternating(texts, key, quirks), key))]

    return each(rows, one)
