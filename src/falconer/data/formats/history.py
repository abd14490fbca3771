"""Formats whose rows repeat the history before each reply; the gold reply is the last candidate.

- TransferTransfo JSON and AlekseyKorshuk/persona-chat: a dialogue is an entry
  `{personality, utterances: [{candidates, history}]}`.
- bavard/personachat_truecased: a row a turn, `personality, candidates, history, conv_id, utterance_idx`; the rows of a
  conversation are joined by `conv_id` and ordered by `utterance_idx`, wherever they stand in the file.

Each history should extend the one before by the gold reply and the partner's answer. Where it holds only the latest
utterances, its last one is taken. `__ SILENCE __` means "the bot opens" and is dropped.
"""

import re
from collections.abc import Iterable
from typing import Any

from falconer.data.files.row import Row, RowError, shown
from falconer.data.formats.rows import Parsed, Quirks, as_dict, as_list, as_text, check_replies, each, get, sentences
from falconer.records import Dialogue, Turn

_SILENCE = re.compile(r"__\s*silence\s*__", re.IGNORECASE)


def parse_entries(rows: Iterable[Row | RowError], name: str, quirks: Quirks) -> Parsed:
    """Yield one Dialogue for each TransferTransfo entry."""

    def one(line: int, row: dict[str, Any]) -> list[Dialogue]:
        persona = sentences(get(row, "personality"), "personality")
        utterances = [
            as_dict(item, f"utterances[{i}]") for i, item in enumerate(as_list(get(row, "utterances"), "utterances"))
        ]
        places = [f"utterances[{i}]." for i in range(len(utterances))]
        return [Dialogue(f"{name}-{line:05d}", persona, _join(list(zip(places, utterances, strict=True)), quirks))]

    return each(rows, one)


def parse_turns(rows: Iterable[Row | RowError], name: str, quirks: Quirks) -> Parsed:
    """Yield one Dialogue for each `conv_id`, in the order in which conversations first appear."""
    conversations: dict[str, list[tuple[int, int, dict[str, Any]]]] = {}
    broken: set[str] = set()
    for item in rows:
        if isinstance(item, RowError):
            yield item
            continue
        line, value = item
        conversation = ""
        try:
            row = as_dict(value, "row")
            conversation = str(get(row, "conv_id"))
            conversations.setdefault(conversation, []).append((_index(get(row, "utterance_idx")), line, row))
        except RowError as error:
            # A conversation with a hole is another conversation: it is left out whole.
            broken.add(conversation)
            error.line = line
            yield error
    for conversation, found in conversations.items():
        if conversation in broken:
            continue
        found.sort(key=lambda entry: entry[0])
        first_line = found[0][1]
        try:
            if len({index for index, _, _ in found}) < len(found):
                raise RowError(
                    "utterance_idx",
                    f"repeats in conversation {shown(conversation)}; expected each turn once.",
                    found[-1][1],
                )
            personas = [sentences(get(row, "personality"), "personality") for _, _, row in found]
            if len(set(personas)) > 1:
                raise RowError(
                    "personality", f"differs between the rows of conversation {shown(conversation)}; expected one."
                )
            turns = _join([("", row) for _, _, row in found], quirks)
            yield Dialogue(f"{name}-{conversation}", personas[0], turns)
        except RowError as error:
            error.line = error.line or first_line
            yield error


def _index(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise RowError("utterance_idx", f"is {shown(value)}; expected the turn's number in its conversation.") from None


def _join(utterances: list[tuple[str, dict[str, Any]]], quirks: Quirks) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    length = 0  # utterances of the dialogue so far, silence included: the next history should hold one more
    for where, utterance in utterances:
        history = [str(text).strip() for text in as_list(get(utterance, "history", where), f"{where}history")]
        candidates = tuple(
            as_text(text, f"{where}candidates[{i}]")
            for i, text in enumerate(as_list(get(utterance, "candidates", where), f"{where}candidates"))
        )
        if not candidates:
            raise RowError(f"{where}candidates", "are empty; expected at least the gold reply, as the last candidate.")
        _check_gold(turns, history, length, where)
        new = history[length:] if len(history) > length else history[-1:]
        # Counted back from the reply: the utterance before it is the partner's, the one before that is the bot's own.
        for distance, text in zip(range(len(new), 0, -1), new, strict=True):
            if _SILENCE.fullmatch(text):
                quirks["silence dropped"] += 1
            else:
                turns.append(Turn("partner" if distance % 2 else "self", as_text(text, f"{where}history")))
        turns.append(Turn("self", candidates[-1], candidates if len(candidates) > 1 else ()))
        length = max(len(history), length) + 1
    return check_replies(turns, "utterances")


def _check_gold(turns: list[Turn], history: list[str], length: int, where: str) -> None:
    """Raise a RowError if the conversation goes on with another of the candidates than the last one."""
    if not turns or len(history) <= length:
        return
    gold, said = turns[-1], history[length - 1]
    if said != gold.text and said in gold.candidates:
        raise RowError(
            f"{where}history",
            f"goes on with {shown(said)}, which is not the last of the candidates before it. The gold reply must "
            "be the last candidate: put it there.",
        )
