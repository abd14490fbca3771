"""Logs of people who chat with a bot."""

import json
from pathlib import Path
from typing import Any

import pytest

from corpus_files import FIXTURES, check_bad, counts, load
from falconer.data.sources import load_dialogues
from falconer.errors import FalconerError


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


def test_exports_that_do_not_say_who_is_the_bot(tmp_path: Path) -> None:
    turns = [{"id": 0, "sender": "participant1", "text": "hi"}]
    row = {"dialog_id": "0x1", "dialog": turns, "eval_score": 1, "profile_match": 1}
    for rows in ([row], [row | {"bot_profile": ["i ski."], "user_profile": []}]):
        with pytest.raises(FalconerError, match="sender_class is missing, so it is unknown which sender is the bot"):
            load(tmp_path, json.dumps(rows))


def test_bad_rows(tmp_path: Path) -> None:
    turns = [{"sender_class": "Human", "text": "hi"}, {"sender_class": "Bot", "text": "yo"}]
    good: dict[str, Any] = {"dialog": turns, "bot_profile": [["i ski."]], "user_profile": []}
    check_bad(
        tmp_path,
        good,
        (good | {"dialog": [{"sender_class": "Cat", "text": "hi"}]}, "dialog[0].sender_class"),
        (good | {"dialog": [{"text": "hi"}]}, "dialog[0].sender_class"),
        (good | {"dialog": [{"sender_class": "Bot"}]}, "dialog[0].text"),
        (good | {"bot_profile": [[5]]}, "bot_profile[0][0]"),
        (good | {"dialog": 5}, "dialog"),
    )


def test_why_nothing_is_left(tmp_path: Path) -> None:
    row = {"dialog": [{"sender_class": "Human", "text": "hi"}], "bot_profile": [["i ski."]]}
    with pytest.raises(FalconerError, match=r"contains no dialogue\. .*dialogue without a reply left out \(2\)"):
        load(tmp_path, [row, row])
