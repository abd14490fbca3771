"""Multi-Session Chat: a session a row, from the side of Speaker 2."""

import json
from itertools import groupby
from pathlib import Path
from typing import Any

from corpus_files import FIXTURES, check_bad, counts, load, said
from falconer.data.sources import load_dialogues


def test_counts_against_another_parse() -> None:
    rows: list[dict[str, Any]] = [json.loads(line) for line in (FIXTURES / "msc.jsonl").read_text("utf-8").splitlines()]
    check_counts(rows, "msc.jsonl", own=2 + 1, other=1 + 1, earlier=2)
    check_counts(json.loads((FIXTURES / "msc_objects.json").read_text("utf-8")), "msc_objects.json", 1, 2, 0)


def check_counts(rows: list[dict[str, Any]], name: str, own: int, other: int, earlier: int) -> None:
    replies = 0
    for row in rows:
        names = [turn.get("id", f"Speaker {i % 2 + 1}") for i, turn in enumerate(row["dialog"]) if turn["text"].strip()]
        # Where the turn between two is blank, they become one.
        replies += sum(name == "Speaker 2" for name, _ in groupby(names))
    loaded = load_dialogues(str(FIXTURES / name))
    assert counts(loaded) == (len(rows), replies, own, other)
    found = sum(len(row.get("previous_dialogs", [])) for row in rows)
    assert loaded.quirks.get("earlier session left out", 0) == found == earlier


def test_the_layouts() -> None:
    one, three = load_dialogues(str(FIXTURES / "msc.jsonl")).dialogues
    (two,) = load_dialogues(str(FIXTURES / "msc_objects.json")).dialogues
    assert one.persona == ("I grow tomatoes.", "I have a twin sister.")
    assert said(one)[-1] == ("partner", "She must be glad.")
    assert (two.persona, two.partner_persona) == (("I drive a tram.",), ("I paint.", "I swim."))
    assert (three.persona, three.partner_persona) == (("i drive a tram.",), ("i paint.",))
    hub = load_dialogues(str(FIXTURES / "msc_hub.jsonl")).dialogues[0]
    assert (hub.persona, hub.partner_persona) == (("I drive a tram.", "I sing."), ("I paint.",))
    assert [speaker for speaker, _ in said(hub)] == ["partner", "self", "partner"]


GOOD: dict[str, Any] = {
    "personas": [["i ski."], ["i cook."]],
    "dialog": [{"text": "hi", "id": "Speaker 1"}, {"text": "yo", "id": "Speaker 2"}],
}


def test_speaker_2_may_open(tmp_path: Path) -> None:
    row = GOOD | {"dialog": [{"text": "hi", "id": "Speaker 2"}, {"text": "yo", "id": "Speaker 1"}]}
    assert said(load(tmp_path, [row, row]).dialogues[0]) == [("self", "hi"), ("partner", "yo")]


def test_bad_rows(tmp_path: Path) -> None:
    check_bad(
        tmp_path,
        GOOD,
        (GOOD | {"personas": [["i ski."]]}, "personas"),
        (GOOD | {"personas": [["i ski."], [1]]}, "personas[1][0]"),
        (GOOD | {"dialog": [{"text": "hi", "id": "Speaker 3"}]}, "dialog[0].id"),
        (GOOD | {"dialog": [{"id": "Speaker 1"}]}, "dialog[0].text"),
        (GOOD | {"dialog": [{"text": "hi", "id": "Speaker 1"}]}, "dialog"),
        (GOOD | {"previous_dialogs": 4}, "previous_dialogs"),
        ({"dialog": GOOD["dialog"], "init_personachat": {}}, "init_personachat.init_personas"),
        ({"persona1": [], "persona2": [], "dialogue": ["a", "b"], "speaker": ["Speaker 1"]}, "speaker"),
    )
