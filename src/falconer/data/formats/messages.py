"""OpenAI `messages` (role, content) and ShareGPT `conversations` (from, value), and ours: JSON, JSON lines or parquet.

In chat logs the system message is the persona, one sentence a line; user/human is the partner, assistant/gpt is the
one who learns.
Ours holds all that a Dialogue holds:

    {"id": "1", "persona": ["i ski ."], "partner_persona": [], "turns": [{"speaker": "partner", "text": "hi !"},
     {"speaker": "self", "text": "hello !", "candidates": ["no .", "hello !"]}]}
"""

import json
from collections.abc import Iterable
from typing import Any

from falconer.data.formats.rows import (
    Parsed,
    Row,
    RowError,
    as_dict,
    as_list,
    as_text,
    check_candidates,
    check_replies,
    each,
    get,
    lines,
    sentences,
    speaker,
)
from falconer.records import Dialogue, Turn


def parse_chat(rows: Iterable[Row | RowError], name: str, key: str) -> Parsed:
    """Yield one Dialogue for each chat log.

    Args:
        rows: the rows with their lines.
        name: ids are `name-LINE` where a row has none.
        key: the field that holds the list, "messages" or "conversations".
    """

    def one(line: int, row: dict[str, Any]) -> list[Dialogue]:
        persona = list(lines(row["system"])) if isinstance(row.get("system"), str) else []
        turns = []
        for i, item in enumerate(as_list(get(row, key), key)):
            where = f"{key}[{i}]."
            message = as_dict(item, where[:-1])
            role_key = "from" if "from" in message else "role"
            text_key = next((name for name in ("content", "value", "text") if name in message), "content")
            role = get(message, role_key, where)
            text = _content(get(message, text_key, where), where + text_key)
            if str(role).lower() in ("system", "developer"):
                persona += lines(text)
            else:
                turns.append(Turn(speaker(role, where + role_key), as_text(text, where + text_key)))
        return [Dialogue(_row_id(row, f"{name}-{line:05d}"), tuple(persona), check_replies(turns, key))]

    return each(rows, one)


def parse_ours(rows: Iterable[Row | RowError], name: str) -> Parsed:
    """Yield one Dialogue for each row of our own format."""

    def one(line: int, row: dict[str, Any]) -> list[Dialogue]:
        turns = []
        for i, item in enumerate(as_list(get(row, "turns"), "turns")):
            where = f"turns[{i}]."
            turn = as_dict(item, where[:-1])
            side = speaker(get(turn, "speaker", where), where + "speaker")
            text = as_text(get(turn, "text", where), where + "text")
            given = as_list(turn.get("candidates") or [], where + "candidates")
            candidates = tuple(as_text(text, f"{where}candidates[{k}]") for k, text in enumerate(given))
            turns.append(check_candidates(Turn(side, text, candidates), where + "candidates"))
        return [
            Dialogue(
                id=_row_id(row, f"{name}-{line:05d}"),
                persona=sentences(get(row, "persona"), "persona"),
                turns=check_replies(turns, "turns"),
                partner_persona=sentences(row.get("partner_persona") or [], "partner_persona"),
            )
        ]

    return each(rows, one)


def to_json(dialogue: Dialogue) -> str:
    """Return a dialogue as one line of our format, without a line break at its end."""
    turns: list[dict[str, Any]] = []
    for turn in dialogue.turns:
        turns.append(
            {"speaker": turn.speaker, "text": turn.text} | ({"candidates": turn.candidates} if turn.candidates else {})
        )
    row = {"id": dialogue.id, "persona": dialogue.persona, "partner_persona": dialogue.partner_persona, "turns": turns}
    return json.dumps(row, ensure_ascii=False)


def _row_id(row: dict[str, Any], default: str) -> str:
    given = row.get("id")
    return str(given).strip() or default if isinstance(given, (str, int)) else default


def _content(value: Any, field: str) -> str:
    """Return a message's text; OpenAI also writes it as a list of parts."""
    if isinstance(value, list):
        parts = [as_dict(part, f"{field}[{i}]") for i, part in enumerate(value)]
        for i, part in enumerate(parts):
            if part.get("type", "text") != "text":
                raise RowError(
                    f"{field}[{i}]", f"is a part of type {part.get('type')!r}; only text can be learned. Remove it."
                )
        return "\n".join(as_text(get(part, "text", f"{field}."), f"{field}.text") for part in parts)
    return as_text(value, field)
