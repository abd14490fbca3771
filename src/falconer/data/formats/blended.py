"""BlendedSkillTalk: ParlAI's JSON and the rows of the hub.

The guided worker answers and is the one who learns; the free worker opens. In ParlAI's file `personas` holds the two
workers' ([free, guided]), `free_turker_utterance` and `guided_turker_utterance` open the conversation and `dialog`
goes on with `[0 or 1, text]`. The hub's rows hold the guided worker's persona alone, `previous_utterance` and the lists
`free_messages` and `guided_messages`. A topic (`additional_context`) is no persona: it is left out and counted.
"""

from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

from falconer.data.files.row import Row, RowError
from falconer.data.formats.rows import Parsed, Quirks, as_list, check_replies, each, get
from falconer.data.formats.spoken import alternating, both_personas, persona_of, turn
from falconer.records import Dialogue, Turn


def parse(rows: Iterable[Row | RowError], name: str, quirks: Quirks) -> Parsed:
    """Yield one Dialogue for each conversation."""

    def one(line: int, row: dict[str, Any]) -> list[Dialogue]:
        is_hub = "guided_messages" in row
        partner, persona = ((), persona_of(get(row, "personas"), "personas")) if is_hub else _personas(row)
        turns = _hub_turns(row, quirks) if is_hub else _turns(row, quirks)
        quirks["topic or situation left out"] += bool(str(row.get("additional_context") or "").strip())
        return [Dialogue(f"{name}-{line:05d}", persona, check_replies(turns, "dialog"), partner)]

    return each(rows, one)


def _personas(row: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return both_personas(get(row, "personas"), "personas")


def _turns(row: dict[str, Any], quirks: Quirks) -> list[Turn]:
    turns: list[Turn] = []
    turns += turn("partner", row.get("free_turker_utterance") or "", "free_turker_utterance", quirks)
    turns += turn("self", row.get("guided_turker_utterance") or "", "guided_turker_utterance", quirks)
    for i, item in enumerate(as_list(get(row, "dialog"), "dialog")):
        pair = as_list(item, f"dialog[{i}]")
        if len(pair) != 2 or pair[0] not in (0, 1):
            raise RowError(f"dialog[{i}]", "is not [0, text] or [1, text]; 0 is the free worker, 1 the guided one.")
        turns += turn("self" if pair[0] else "partner", pair[1], f"dialog[{i}][1]", quirks)
    return turns


def _hub_turns(row: dict[str, Any], quirks: Quirks) -> list[Turn]:
    free, guided = (as_list(get(row, key), key) for key in ("free_messages", "guided_messages"))
    if not 0 <= len(free) - len(guided) <= 1:
        raise RowError(
            "guided_messages", f"has {len(guided)} texts for {len(free)} free_messages; expected one for each."
        )
    earlier = alternating(
        as_list(row.get("previous_utterance") or [], "previous_utterance"), "previous_utterance", quirks
    )
    later: list[Turn] = []
    for i, (text, answer) in enumerate(zip_longest(free, guided)):
        later += turn("partner", text, f"free_messages[{i}]", quirks)
        if answer is not None:
            later += turn("self", answer, f"guided_messages[{i}]", quirks)
    return earlier + later
