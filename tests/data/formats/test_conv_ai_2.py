"""Logs of people who chat with a bot."""

import json
from pathlib import Path
from typing import Any

from corpora import FIXTURES, bad, counts
from falconer.data.sources import load_dialogues


def test_counts_against_another_parse() -> None:
    rows = json.loads((FIXTURES / "conv_ai_2.json").read_text(encoding="utf-8"))
    spoken = [[turn for turn in row["dialog"] if turn["sender_class"] == "Bot" and turn["text"]] for row in rows]
    kept = [row for row, turns in zip(rows, spoken, strict=True) if turns]
    own, other = (sum(len(row[key]) for row in kept) for key in ("bot_profile", "user_profile"))
    loaded = load_dialogues(str(FIXTURES / "conv_ai_2.json"))
    assert counts(loaded)[0] == len(kept) == 2
    assert counts(loaded)[2:] == (own, other) == (4, 2)
    assert loaded.quirks["dialogue without a reply left out"] == 1
    assert loaded.quirks["empty turn dropped"] == 1
    assert " ".join(turn.text for turn in loaded.dialogues[0].turns if turn.speaker == "self") == " ".join(
        turn["text"] for turn in spoken[0]
    )


def test_bad_rows(tmp_path: Path) -> None:
    turns = [{"sender_class": "Human", "text": "hi"}, {"sender_class": "Bot", "text": "yo"}]
    good: dict[str, Any] = {"dialog": turns, "bot_profile": [["i ski."]], "user_profile": []}
    found = bad(
        tmp_path,
        good,
        good | {"dialog": [{"sender_class": "Cat", "text": "hi"}]},
        good | {"dialog": [{"text": "hi"}]},
        good | {"dialog": [{"sender_class": "Bot"}]},
        good | {"bot_profile": [[5]]},
        good | {"dialog": 5},
    )
    assert [(line, field) for line, field, _ in found] == [
        (2, "dialog[0].sender_class"),
        (3, "dialog[0].sender_class"),
        (4, "dialog[0].text"),
        (5, "bot_profile[0][0]"),
        (6, "dialog"),
    ]
