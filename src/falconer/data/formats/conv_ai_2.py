"""Logs of people who chat with a bot: Hugging Face's conv_ai_2 and the ConvAI2 files of DeepPavlov that it came from.

`dialog` is a list of `{text, sender, sender_class}`; a sender of class "Bot" is the one who learns, and owns
`bot_profile`; `user_profile` is the person's. The hub wraps each sentence of a profile into a list. The bots of the
competition often fell silent or were left at once: blank turns are dropped, dialogues without a word of the bot left
out, both counted.
"""

from collections.abc import Iterable
from typing import Any

from falconer.data.files.row import Row, RowError
from falconer.data.formats.rows import Parsed, Quirks, as_dict, as_list, each, get, speaker
from falconer.data.formats.spoken import persona_of, turn
from falconer.records import Dialogue, Turn


def parse(rows: Iterable[Row | RowError], name: str, quirks: Quirks) -> Parsed:
    """Yield one Dialogue for each row in which the bot says something."""

    def one(line: int, row: dict[str, Any]) -> list[Dialogue]:
        turns: list[Turn] = []
        for i, item in enumerate(as_list(get(row, "dialog"), "dialog")):
            where = f"dialog[{i}]."
            message = as_dict(item, where[:-1])
            if "sender_class" not in message and "sender" in message:
                raise RowError(
                    where + "sender_class",
                    "is missing, so it is unknown which sender is the bot. Use one of ConvAI2's later files, e.g. "
                    "data_volunteers.json or summer_wild_evaluation_dialogs.json.",
                )
            side = speaker(get(message, "sender_class", where), where + "sender_class")
            turns += turn(side, get(message, "text", where), where + "text", quirks)
        persona, partner = (persona_of(row.get(key), key) for key in ("bot_profile", "user_profile"))
        dialogue = Dialogue(f"{name}-{line:05d}", persona, tuple(turns), partner)
        if not dialogue.replies:
            quirks["dialogue without a reply left out"] += 1
            return []
        return [dialogue]

    return each(rows, one)
