"""LoCoMo: very long conversations of two friends, in sessions.

`conversation` holds `speaker_a`, `speaker_b` and, for each session, `session_N`, a list of `{speaker, text, dia_id}`,
beside `session_N_date_time`. Each session is a dialogue; speaker_b is the one who learns. There is no persona: what was
observed of the speakers was drawn from the conversations themselves. Questions, summaries and pictures are left out; a
turn that shows a picture keeps its words and is counted.
"""

import re
from collections.abc import Iterable
from typing import Any

from falconer.data.files.row import Row, RowError, shown
from falconer.data.formats.rows import Parsed, Quirks, as_dict, as_list, each, get
from falconer.data.formats.spoken import turn
from falconer.records import Dialogue, Turn

_SESSION = re.compile(r"session_(\d{1,9})", re.ASCII)


def parse(rows: Iterable[Row | RowError], name: str, quirks: Quirks) -> Parsed:
    """Yield one Dialogue for each session in which speaker_b says something, in the order of the sessions."""

    def one(line: int, row: dict[str, Any]) -> list[Dialogue]:
        # The first release had a file for each conversation, its sessions at the top.
        is_alone = "speaker_a" in row and "conversation" not in row
        where = "" if is_alone else "conversation."
        conversation = row if is_alone else as_dict(get(row, "conversation"), "conversation")
        names = {
            str(get(conversation, "speaker_a", where)): False,
            str(get(conversation, "speaker_b", where)): True,
        }
        numbered = (_SESSION.fullmatch(str(key)) for key in conversation)
        sessions = sorted((int(found[1]), found[0]) for found in numbered if found)
        if not sessions:
            raise RowError("conversation", "has no session; expected lists session_1, session_2, ...")
        dialogues = []
        for number, key in sessions:
            turns = _session(conversation[key], where + key, names, quirks)
            sample = str(row.get("sample_id") or f"{name}-{line:05d}")
            dialogue = Dialogue(f"{sample}/{number}", (), tuple(turns))
            if dialogue.replies:
                dialogues.append(dialogue)
            else:
                quirks["session without a reply left out"] += 1
        return dialogues

    return each(rows, one)


def _session(value: Any, field: str, names: dict[str, bool], quirks: Quirks) -> list[Turn]:
    turns: list[Turn] = []
    for i, item in enumerate(as_list(value or [], field)):
        where = f"{field}[{i}]."
        message = as_dict(item, where[:-1])
        who = str(get(message, "speaker", where))
        if who not in names:
            raise RowError(where + "speaker", f"is {shown(who)}; expected one of {', '.join(map(shown, names))}.")
        quirks["picture left out"] += bool(message.get("img_url") or message.get("blip_caption"))
        turns += turn("self" if names[who] else "partner", message.get("text") or "", where + "text", quirks)
    return turns
