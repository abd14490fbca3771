"""OpenAI `messages` (role, content) and ShareGPT `conversations` (from, value), and ours: JSON, JSON lines or parquet.

In chat logs the system message is the persona, one sentence a line; user/human is the partner, assistant/gpt is the
one who learns. A system message stands before the first turn: the persona has no place further down, so a later one is
a bad row. Calls of tools, their results and pictures are no dialogue of two people, and bad rows too.

Marks that say "do not learn this reply" (OpenAI's `weight: 0`, ShareGPT's `train: false`, `loss: false`,
`masked: true`) are kept: the reply is context then.

Ours holds all that a Dialogue holds:

    {"id": "1", "persona": ["i ski ."], "partner_persona": [], "turns": [{"speaker": "partner", "text": "hi !"},
     {"speaker": "self", "text": "hello !", "candidates": ["no .", "hello !"]},
     {"speaker": "self", "text": "go away .", "is_learned": false}]}
"""

import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from falconer.data.files.row import Row, RowError, shown
from falconer.data.formats.rows import (
    Parsed,
    Quirks,
    as_dict,
    as_list,
    as_text,
    check_candidates,
    check_replies,
    each,
    get,
    is_blank,
    lines,
    sentences,
    speaker,
)
from falconer.data.formats.spoken import persona_of
from falconer.records import Dialogue, Turn

# What marks a message as learned or not, and whether a true value says that it is learned.
_MARKS: Mapping[str, bool] = MappingProxyType({
    "weight": True, "train": True, "training": True, "trainable": True, "loss": True, "is_learned": True,
    "loss_weight": True, "loss_mask": True, "compute_loss": True, "learn": True,
    "masked": False, "is_masked": False, "ignore": False,
})  # fmt: skip
# Those that a whole row may have; a row's "loss" is a figure that somebody measured.
_ROW_MARKS = ("weight", "train", "training", "trainable", "is_learned", "learn")
_TOOL_ROLES = (
    "tool",
    "function",
    "ipython",
    "observation",
    "function_call",
    "tool_call",
    "tool_response",
    "tool_result",
)
_CALLS = ("tool_calls", "function_call", "tool_call_id")
NOT_LEARNED = "reply marked not to be learned kept as context"

# Fields in which chat logs hold their messages; WildChat and LMSYS-Chat have the last one.
LISTS = ("messages", "conversations", "conversation")


def parse_chat(rows: Iterable[Row | RowError], name: str, key: str, quirks: Quirks) -> Parsed:
    """Yield one Dialogue for each chat log.

    Args:
        rows: the rows with their lines.
        name: ids are `name-LINE` where a row has none.
        key: the field that holds the list, one of `LISTS`; where it is empty, the others are looked at.
        quirks: counts of what was handled.
    """

    def one(line: int, row: dict[str, Any]) -> list[Dialogue]:
        field = next((field for field in (key, *LISTS) if not is_blank(row.get(field))), key)
        check_row_mark(row)
        told, turns = chat_turns(get(row, field), field)
        persona, partner_persona = personas(row, told, quirks)
        quirks[NOT_LEARNED] += sum(not turn.is_learned for turn in turns)
        note_tools(row, quirks)
        replies = check_replies(turns, field)
        return [Dialogue(row_id(row, f"{name}-{line:05d}"), persona, replies, partner_persona)]

    return each(rows, one)


def chat_turns(messages: Any, key: str) -> tuple[tuple[str, ...], list[Turn]]:
    """Return the persona and the turns of a list of messages; `key` is the field that holds it.

    Raises:
        RowError: a message that can't be used, or a system message behind the first turn.
    """
    persona: list[str] = []
    turns: list[Turn] = []
    for i, item in enumerate(as_list(messages, key)):
        where = f"{key}[{i}]."
        message = as_dict(item, where[:-1])
        # Parquet fills the fields of one kind of message with nulls in the other.
        role_key = _first(message, ("role", "from"))
        text_key = _first(message, ("content", "value", "text"))
        role = str(get(message, role_key, where)).strip().lower()
        _refuse_tools(message, role, where, role_key)
        if role not in ("system", "developer"):
            text = as_text(_content(get(message, text_key, where), where + text_key), where + text_key)
            side = speaker(role, where + role_key)
            turns.append(Turn(side, text, is_learned=is_learned(message, where) or side == "partner"))
        elif turns:
            raise RowError(
                where + role_key,
                f"is '{role}' after the first turn. The system message is the persona and comes first: move it "
                "there, or leave the dialogue out.",
            )
        elif not is_blank(message.get(text_key)):
            persona += lines(_content(message[text_key], where + text_key))
    return tuple(persona), turns


def is_learned(message: dict[str, Any], where: str) -> bool:
    """Tell whether a message is to be learned; a mark that says neither yes nor no is a RowError."""
    learned = True
    for key, means_learned in _MARKS.items():
        if key not in message or is_blank(value := message[key]):
            continue
        if isinstance(value, (dict, list, str)) or value not in (0, 1):
            raise RowError(
                where + key, f"is {shown(value)}; expected true or false (or 1 or 0): whether to learn this reply."
            )
        learned = learned and bool(value) == means_learned
    if not is_blank(message.get("train_detail")):
        raise RowError(
            where + "train_detail",
            "marks parts of a reply; a reply is learned whole or not at all. Write 'train': true or false instead.",
        )
    if not is_blank(message.get("mask")):
        raise RowError(
            where + "mask",
            "means 'learn this' in some programs and 'do not learn this' in others. Write 'train': true or false "
            "instead.",
        )
    return learned


def check_row_mark(row: dict[str, Any]) -> None:
    """Raise a RowError for a row that is marked, as a whole, as not to be learned."""
    for key in _ROW_MARKS:
        if isinstance(row.get(key), (bool, int, float)) and row[key] == 0:
            raise RowError(key, f"is {shown(row[key])}: the row is marked as not to be learned. Leave the row out.")


def personas(row: dict[str, Any], told: tuple[str, ...], quirks: Quirks) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the persona and the partner's, of what a row holds beside its messages and what these tell themselves.

    Args:
        row: the row; its `system` (a text, or a list of parts as Anthropic has it) and its `persona` are the persona.
        told: the system messages' lines. Where the row repeats them, they count once.
        quirks: counts the rows with a persona beside the messages.
    """
    if not is_blank(row.get("personas")):
        raise RowError(
            "personas",
            "are those of two speakers, but not which one is whose. Write the learner's as 'persona', a list of "
            "sentences, and the other's as 'partner_persona'.",
        )
    found: list[str] = []
    for key in ("system", "system_prompt", "system_message"):
        if not is_blank(row.get(key)):
            found += lines(_content(row[key], key))
    for key in ("persona", "personality", "bot_persona"):
        if not is_blank(row.get(key)):
            quirks["persona beside the messages read"] += 1
            found += persona_of(row[key], key)
    beside = tuple(dict.fromkeys(found))
    own = beside + tuple(line for line in told if line not in beside)
    return own, persona_of(row.get("partner_persona"), "partner_persona")


def note_tools(row: dict[str, Any], quirks: Quirks) -> None:
    """Count definitions of tools: replies in words need none, and calls of them are refused."""
    quirks["definitions of tools ignored"] += any(not is_blank(row.get(key)) for key in ("tools", "functions"))


def parse_ours(rows: Iterable[Row | RowError], name: str, quirks: Quirks) -> Parsed:
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
            learned = is_learned(turn, where) or side == "partner"
            turns.append(check_candidates(Turn(side, text, candidates, learned), where + "candidates"))
        quirks[NOT_LEARNED] += sum(not turn.is_learned for turn in turns)
        return [
            Dialogue(
                id=row_id(row, f"{name}-{line:05d}"),
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
        extra = {"candidates": turn.candidates} if turn.candidates else {}
        mark = {} if turn.is_learned else {"is_learned": False}
        turns.append({"speaker": turn.speaker, "text": turn.text} | extra | mark)
    row = {"id": dialogue.id, "persona": dialogue.persona, "partner_persona": dialogue.partner_persona, "turns": turns}
    return json.dumps(row, ensure_ascii=False)


def row_id(row: dict[str, Any], default: str) -> str:
    given = row.get("id")
    return str(given).strip() or default if isinstance(given, (str, int)) else default


def _first(message: dict[str, Any], keys: tuple[str, ...]) -> str:
    """Return the first key with a value; else the first that is there, else the first."""
    filled = [key for key in keys if message.get(key) is not None]
    return next(iter(filled or [key for key in keys if key in message]), keys[0])


def _refuse_tools(message: dict[str, Any], role: str, where: str, role_key: str) -> None:
    if role in _TOOL_ROLES:
        raise RowError(
            where + role_key, f"is '{role}': tool calls and their results are not supported. Leave the dialogue out."
        )
    for key in _CALLS:
        if not is_blank(message.get(key)):
            raise RowError(where + key, "calls a tool; only text replies are supported. Leave the dialogue out.")


def _content(value: Any, field: str) -> str:
    """Return a message's text; OpenAI also writes it as a list of parts."""
    if not isinstance(value, list):
        return as_text(value, field)
    texts = []
    for i, part in enumerate(value):
        where = f"{field}[{i}]"
        if isinstance(part, str):
            texts.append(part.strip())
            continue
        kind = as_dict(part, where).get("type") or "text"
        if kind not in ("text", "input_text", "output_text"):
            raise RowError(where, f"is a part of type {shown(kind)}; only text is supported. Remove it.")
        text = part.get("text")
        texts.append("" if is_blank(text) else as_text(text, f"{where}.text"))
    return as_text("\n".join(text for text in texts if text), field)
