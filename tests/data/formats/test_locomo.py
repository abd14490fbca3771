"""LoCoMo: each session is a dialogue; speaker_b learns."""

import json
from pathlib import Path
from typing import Any

from corpus_files import FIXTURES, check_bad, counts, load, said
from falconer.data.sources import load_dialogues


def test_counts_against_another_parse() -> None:
    (row,) = json.loads((FIXTURES / "locomo.json").read_text(encoding="utf-8"))
    talk = row["conversation"]
    sessions = [value for value in talk.values() if isinstance(value, list)]
    spoken = [sum(turn["speaker"] == talk["speaker_b"] for turn in session) for session in sessions]
    loaded = load_dialogues(str(FIXTURES / "locomo.json"))
    assert counts(loaded) == (sum(n > 0 for n in spoken), sum(spoken), 0, 0)
    assert loaded.quirks == {"picture left out": 1, "session without a reply left out": 2}
    assert [dialogue.id for dialogue in loaded.dialogues] == ["conv-1/1", "conv-1/2"]
    assert said(loaded.dialogues[1])[0] == ("self", "Good morning!")


def test_a_conversation_alone_in_its_file(tmp_path: Path) -> None:
    row = {
        "speaker_a": "Ana",
        "speaker_b": "Ben",
        "session_1_date_time": "noon",
        "session_1_facts": {},
        "session_1": [{"speaker": "Ana", "text": "hi"}, {"speaker": "Ben", "text": "yo"}],
    }
    loaded = load(tmp_path, json.dumps(row))
    assert (loaded.format, [dialogue.id for dialogue in loaded.dialogues]) == ("locomo", ["x-00001/1"])
    assert said(loaded.dialogues[0]) == [("partner", "hi"), ("self", "yo")]


def test_bad_rows(tmp_path: Path) -> None:
    def row(**conversation: Any) -> dict[str, Any]:
        return {"sample_id": "1", "conversation": {"speaker_a": "Ana", "speaker_b": "Ben"} | conversation}

    check_bad(
        tmp_path,
        row(session_1=[{"speaker": "Ben", "text": "hi"}]),
        (row(session_1=[{"speaker": "Cleo", "text": "hi"}]), "conversation.session_1[0].speaker"),
        (row(session_1=[{"speaker": "Ben", "text": 4}]), "conversation.session_1[0].text"),
        (row(session_1="hi"), "conversation.session_1"),
        (row(session_1_date_time="noon"), "conversation"),
        ({"sample_id": "1", "conversation": {"session_1": []}}, "conversation.speaker_a"),
    )
