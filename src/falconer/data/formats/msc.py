"""Multi-Session Chat: one session of a conversation a row, the sessions before it in `previous_dialogs`.

`dialog` holds `{text, id}` with the ids "Speaker 1" and "Speaker 2" (where they lack, the two take turns); Speaker 2
answers and is the one who learns. `personas` ([of Speaker 1, of Speaker 2], or an object of the two) is what is known
of them by then, `init_personas` what they were given on the first day. The files of persona summaries have the latter
alone, in `init_personachat`; copies on the hub have `persona1`, `persona2`, `dialogue` and `speaker` lists.

A session is a dialogue of its own: the earlier ones are rows of the files of those sessions (session 1 is Persona-Chat
itself), so those that are repeated here are left out and counted.
"""

from collections.abc import Iterable
from typing import Any

from falconer.data.files.row import Row, RowError, shown
from falconer.data.formats.rows import Parsed, Quirks, as_dict, as_list, check_replies, each, get
from falconer.data.formats.spoken import both_personas, persona_of, turn
from falconer.records import Dialogue, Turn

_FIRST = ("speaker 1", "speaker_1", "speaker1", "1", "user 1", "bot_0")
_SECOND = ("speaker 2", "speaker_2", "speaker2", "2", "user 2", "bot_1")


def parse(rows: Iterable[Row | RowError], name: str, quirks: Quirks) -> Parsed:
    """Yield one Dialogue for each session, from the side of Speaker 2."""

    def one(line: int, row: dict[str, Any]) -> list[Dialogue]:
        if "persona1" in row or "persona2" in row:
            first, second = (persona_of(row.get(key), key) for key in ("persona1", "persona2"))
        else:
            first, second = _personas(row)
        turns = _flat(row, quirks) if "dialog" not in row else _session(row, quirks)
        quirks["earlier session left out"] += len(as_list(row.get("previous_dialogs") or [], "previous_dialogs"))
        return [Dialogue(f"{name}-{line:05d}", second, check_replies(turns, "dialog"), first)]

    return each(rows, one)


def _personas(row: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    key = next((key for key in ("personas", "init_personas") if row.get(key)), "")
    if key:
        return both_personas(row[key], key)
    given = as_dict(get(row, "init_personachat"), "init_personachat")
    return both_personas(get(given, "init_personas", "init_personachat."), "init_personachat.init_personas")


def _session(row: dict[str, Any], quirks: Quirks) -> list[Turn]:
    turns: list[Turn] = []
    for i, item in enumerate(as_list(get(row, "dialog"), "dialog")):
        where = f"dialog[{i}]."
        message = {"text": item} if isinstance(item, str) else as_dict(item, where[:-1])
        is_second = _is_second(message.get("id"), i, where + "id")
        turns += turn("self" if is_second else "partner", get(message, "text", where), where + "text", quirks)
    return turns


def _flat(row: dict[str, Any], quirks: Quirks) -> list[Turn]:
    texts = as_list(get(row, "dialogue"), "dialogue")
    names = as_list(row.get("speaker") or [None] * len(texts), "speaker")
    if len(names) != len(texts):
        raise RowError(
            "speaker", f"has {len(names)} names for the {len(texts)} texts of dialogue; expected one for each."
        )
    turns: list[Turn] = []
    for i, (text, who) in enumerate(zip(texts, names, strict=True)):
        turns += turn("self" if _is_second(who, i, f"speaker[{i}]") else "partner", text, f"dialogue[{i}]", quirks)
    return turns


def _is_second(value: Any, index: int, field: str) -> bool:
    if value in (None, ""):
        return bool(index % 2)
    known = str(value).strip().lower()
    if known not in _FIRST + _SECOND:
        raise RowError(field, f"is {shown(value)}; expected 'Speaker 1' or 'Speaker 2'.")
    return known in _SECOND
