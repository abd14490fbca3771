"""Rows of one task and its answer: alpaca (instruction, input, output) and prompt/completion, as texts or as messages.

- alpaca: `instruction` and `input` are the partner's turn, `output` is the reply; `history`, if there, is a list of
  [partner, reply] pairs before them, `system` the persona.
- prompt/completion: two texts, or two lists of messages as TRL has them. The completion is what is learned; replies in
  the prompt are context.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from falconer.data.files.row import Row, RowError
from falconer.data.formats.messages import NOT_LEARNED, chat_turns, check_row_mark, note_tools, personas, row_id
from falconer.data.formats.rows import Parsed, Quirks, as_list, as_text, check_replies, each, get, is_blank
from falconer.records import Dialogue, Turn


def parse_alpaca(rows: Iterable[Row | RowError], name: str, quirks: Quirks) -> Parsed:
    """Yield one Dialogue for each row of instruction, input and output."""

    def one(line: int, row: dict[str, Any]) -> list[Dialogue]:
        check_row_mark(row)
        turns: list[Turn] = []
        history = row.get("history")
        for i, pair in enumerate([] if is_blank(history) else as_list(history, "history")):
            texts = as_list(pair, f"history[{i}]")
            if len(texts) != 2:
                raise RowError(
                    f"history[{i}]", f"has {len(texts)} entries; expected [what was asked, what was answered]."
                )
            turns.append(Turn("partner", as_text(texts[0], f"history[{i}][0]")))
            turns.append(Turn("self", as_text(texts[1], f"history[{i}][1]")))
        asked = [as_text(row[key], key) for key in ("instruction", "input") if not is_blank(row.get(key))]
        if not asked:
            raise RowError("instruction", "is empty, and so is the input; expected text.")
        turns.append(Turn("partner", "\n".join(asked)))
        turns.append(Turn("self", as_text(get(row, "output"), "output")))
        persona, partner_persona = personas(row, (), quirks)
        return [Dialogue(row_id(row, f"{name}-{line:05d}"), persona, tuple(turns), partner_persona)]

    return each(rows, one)


def parse_completions(rows: Iterable[Row | RowError], name: str, quirks: Quirks) -> Parsed:
    """Yield one Dialogue for each row of a prompt and its completion."""

    def one(line: int, row: dict[str, Any]) -> list[Dialogue]:
        if isinstance(row.get("label"), (bool, int)):
            raise RowError(
                "label",
                "says whether the completion is desirable: these are preferences (KTO), not replies to learn. Keep "
                "the rows whose label is true, without the label.",
            )
        check_row_mark(row)
        told, asked = _side(row, "prompt", "partner")
        more, answered = _side(row, "completion", "self")
        if more:
            raise RowError("completion", "contains a system message, which belongs at the start of the prompt.")
        quirks[NOT_LEARNED] += sum(not turn.is_learned for turn in answered)
        quirks["reply in a prompt kept as context"] += sum(turn.speaker == "self" for turn in asked)
        note_tools(row, quirks)
        turns = [*(replace(turn, is_learned=turn.speaker == "partner") for turn in asked), *answered]
        persona, partner_persona = personas(row, told, quirks)
        replies = check_replies(turns, "completion")
        return [Dialogue(row_id(row, f"{name}-{line:05d}"), persona, replies, partner_persona)]

    return each(rows, one)


def _side(row: dict[str, Any], key: str, speaker: Any) -> tuple[tuple[str, ...], list[Turn]]:
    """Return (persona, turns) of a field that is a text or a list of messages."""
    value = get(row, key)
    if is_blank(value):
        raise RowError(key, "is empty; expected text, or a list of messages.")
    is_list = isinstance(value, list) or (isinstance(value, str) and value.strip().startswith("[{"))
    return chat_turns(value, key) if is_list else ((), [Turn(speaker, as_text(value, key))])
