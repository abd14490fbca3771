"""BlendedSkillTalk: the guided worker learns."""

import json
from pathlib import Path
from typing import Any

from corpus_files import FIXTURES, check_bad, counts, said
from falconer.data.sources import load_dialogues

GOOD: dict[str, Any] = {
    "personas": [["i ski."], ["i cook."]],
    "free_turker_utterance": "hi",
    "guided_turker_utterance": "hello",
    "dialog": [[0, "well ?"], [1, "well ."]],
}


def test_counts_against_another_parse() -> None:
    rows = json.loads((FIXTURES / "blended.json").read_text(encoding="utf-8"))
    replies = sum(1 + sum(who == 1 for who, _ in row["dialog"]) for row in rows)
    own, other = (sum(len(row["personas"][side]) for row in rows) for side in (1, 0))
    loaded = load_dialogues(str(FIXTURES / "blended.json"))
    assert counts(loaded) == (len(rows), replies, own, other)
    assert loaded.quirks == {"topic or situation left out": sum(bool(row["additional_context"]) for row in rows)}


def test_the_hub_tells_the_same() -> None:
    ours, hub = (load_dialogues(str(FIXTURES / name)).dialogues[0] for name in ("blended.json", "blended_hub.jsonl"))
    assert said(ours) == said(hub)
    assert ours.persona == hub.persona


def test_bad_rows(tmp_path: Path) -> None:
    hub = {"personas": ["i ski."], "free_messages": ["a"], "guided_messages": ["b"]}
    check_bad(
        tmp_path,
        GOOD,
        (GOOD | {"dialog": [[2, "x"]]}, "dialog[0]"),
        (GOOD | {"dialog": [["x"]]}, "dialog[0]"),
        (GOOD | {"dialog": [[0, 7]]}, "dialog[0][1]"),
        (GOOD | {"personas": ["i ski."]}, "personas"),
        (GOOD | {"guided_turker_utterance": "", "dialog": []}, "dialog"),
        (hub | {"guided_messages": ["b", "c"]}, "guided_messages"),
        (hub | {"guided_messages": [1]}, "guided_messages[0]"),
        (hub | {"personas": 3}, "personas"),
    )
