"""DailyDialog: a conversation a line, its turns ended by `__eou__`; or rows with a list of turns.

Rows hold `dialog` or `utterances` (texts, as on the hub), or `dialogue` (objects with `text`, as in ParlAI's copy).
There are no personas. The two speakers take turns, and the second one's replies are learned; emotions, acts and topics
are left out.
"""

from collections.abc import Iterable
from typing import Any

from falconer.data.files.row import Row, RowError
from falconer.data.formats.rows import Parsed, Quirks, as_list, check_replies, each, get
from falconer.data.formats.spoken import alternating, check_no_persona
from falconer.records import Dialogue

_END = "__eou__"


def is_dailydialog(text: str) -> bool:
    """Tell whether a text's first line holds DailyDialog's mark of a turn's end."""
    return _END in text.lstrip()[:20_000].split("\n", 1)[0]


def parse_text(text: str, name: str, quirks: Quirks) -> Parsed:
    """Yield one Dialogue for each line with more than one turn."""

    def one(line: int, row: dict[str, Any]) -> list[Dialogue]:
        if _END not in row["text"]:
            raise RowError("line", f"has no {_END}; expected it after each turn. Write each conversation on one line.")
        return _dialogue(f"{name}-{line:05d}", _cut(row["text"]), "turns", quirks)

    numbered = enumerate(text.split("\n"), start=1)
    return each(((line, {"text": content}) for line, content in numbered if content.strip()), one)


def parse(rows: Iterable[Row | RowError], name: str, quirks: Quirks) -> Parsed:
    """Yield one Dialogue for each row with more than one turn."""

    def one(line: int, row: dict[str, Any]) -> list[Dialogue]:
        key = next((key for key in ("dialog", "utterances", "dialogue") if key in row), "dialog")
        check_no_persona(row, "DailyDialog")
        value = get(row, key)
        items = _cut(value) if isinstance(value, str) and _END in value else as_list(value, key)
        texts = [_text(item, f"{key}[{i}].") if isinstance(item, dict) else item for i, item in enumerate(items)]
        return _dialogue(f"{name}-{line:05d}", texts, key, quirks)

    return each(rows, one)


def _text(item: dict[str, Any], where: str) -> Any:
    for key in ("speaker", "id", "role", "from"):
        if key in item:
            # The sides would be guessed from the order although the row says whose turn it is.
            raise RowError(
                where + key, "names a speaker, which DailyDialog does not do. Write 'messages' with role and content."
            )
    return get(item, "text", where)


def _cut(text: str) -> list[str]:
    texts = [part.strip() for part in text.split(_END)]
    # Behind the last mark stands nothing.
    return texts if texts[-1] else texts[:-1]


def _dialogue(dialogue_id: str, texts: list[Any], field: str, quirks: Quirks) -> list[Dialogue]:
    if len(texts) < 2:
        quirks["conversation of one turn left out"] += 1
        return []
    return [Dialogue(dialogue_id, (), check_replies(alternating(texts, field, quirks), field))]
