"""Rows of persona_b, dialogue and reference, as nazlicanto/persona-based-chat and Cynaptics/persona-chat have them."""

import json
from pathlib import Path

import pytest

from corpus_files import FIXTURES, check_bad, counts, load, load_text, said
from falconer.data.sources import load_dialogues


def test_counts_against_another_parse() -> None:
    rows = [json.loads(line) for line in (FIXTURES / "nazlicanto.jsonl").read_text(encoding="utf-8").splitlines()]
    # Rows of a conversation grow; the longest one holds the others.
    longest = {row["conv_id"]: row for row in rows}
    replies = sum((len(row["dialogue"]) + 1) // 2 for row in longest.values())
    loaded = load_dialogues(str(FIXTURES / "nazlicanto.jsonl"))
    assert counts(loaded) == (len(longest), replies, sum(len(row["persona_b"]) for row in longest.values()), 0)
    assert loaded.quirks == {"row contained in another row left out": len(rows) - len(longest)}
    assert said(loaded.dialogues[0])[-2:] == [("partner", "do you live alone ?"), ("self", "no , with my sister .")]


def test_a_copy_with_messages_in_a_cell(tmp_path: Path) -> None:
    log = [{"role": "system", "content": "i ski."}, {"role": "user", "content": "hi"}]
    row = {"conv_id": "1", "persona_b": ["i ski."], "dialogue": ["Persona A: hi"], "reference": "yo"}
    full = row | {"messages": json.dumps([*log, {"role": "assistant", "content": "yo"}])}
    for rows, format in (([row, row | {"reference": "oh"}], "cynaptics"), ([full, full], "messages")):
        loaded = load(tmp_path, rows)
        assert loaded.format == format
        assert loaded.dialogues[0].persona == ("i ski.",)
        assert said(loaded.dialogues[0]) == [("partner", "hi"), ("self", "yo")]


def test_turns_in_a_row_are_joined_before_rows_are_compared(tmp_path: Path) -> None:
    """The reply "b c" to "a" is another one than "b": the short row is not the beginning of the long one."""
    start = {"persona_b": ["i ski."], "dialogue": ["Persona A: a"], "reference": "b"}
    longer = start | {"dialogue": ["Persona A: a", "Persona B: b", "Persona B: c", "Persona A: d"], "reference": "e"}
    loaded = load(tmp_path, [start, longer])
    assert [said(dialogue) for dialogue in loaded.dialogues] == [
        [("partner", "a"), ("self", "b")],
        [("partner", "a"), ("self", "b c"), ("partner", "d"), ("self", "e")],
    ]
    assert loaded.quirks == {"consecutive turns of one speaker merged": 1}


def test_a_reference_that_stands_in_the_dialogue_is_not_said_twice(tmp_path: Path) -> None:
    row = {"persona_b": ["i ski."], "dialogue": ["Persona A: a", "Persona B: b", "Persona B: c"], "reference": "c"}
    (dialogue,) = load(tmp_path, [row]).dialogues
    assert said(dialogue) == [("partner", "a"), ("self", "b c")]


def test_bad_rows(tmp_path: Path) -> None:
    good = {"persona_b": ["i ski."], "dialogue": ["Persona A: hi"], "reference": "yo"}
    check_bad(
        tmp_path,
        good,
        (good | {"dialogue": [5]}, "dialogue[0]"),
        (good | {"reference": ""}, "reference"),
        (good | {"reference": None}, "reference"),
        (good | {"persona_b": [5]}, "persona_b[0]"),
        (good | {"dialogue": ["Persona A: "]}, "dialogue[0]"),
    )


class TestCynaptics:
    def test_rows_that_begin_another_row_are_left_out_and_counted(self) -> None:
        loaded = load_dialogues(str(FIXTURES / "cynaptics.jsonl"))
        assert loaded.quirks == {"row contained in another row left out": 3}

    @pytest.mark.parametrize(
        "dialogue",
        [
            ["Persona A: hi .", "Persona B: hello .", "Persona A: bye ."],
            ["hi .", "hello .", "bye ."],
            "Persona A: hi .\nPersona B: hello .\nPersona A: bye .",
            "persona a: hi . persona b: hello . persona a: bye .",
            "['Persona A: hi .' 'Persona B: hello .' 'Persona A: bye .']",
        ],
    )
    def test_dialogue_as_list_or_text(self, tmp_path: Path, dialogue: str | list[str]) -> None:
        row = {"persona_b": ["i ski ."], "dialogue": dialogue, "reference": "Persona B: see you ."}
        (found,) = load_text(tmp_path, "x.json", json.dumps([row])).dialogues
        expected = [("partner", "hi ."), ("self", "hello ."), ("partner", "bye ."), ("self", "see you .")]
        assert said(found) == expected

    def test_a_reference_that_is_there_already(self, tmp_path: Path) -> None:
        row = {"persona_b": ["i ski ."], "dialogue": ["Persona A: hi .", "Persona B: yo ."], "reference": "yo ."}
        (found,) = load_text(tmp_path, "x.json", json.dumps([row])).dialogues
        assert said(found) == [("partner", "hi ."), ("self", "yo .")]

    def test_other_replies_to_the_same_history_stay(self, tmp_path: Path) -> None:
        rows = [{"persona_b": ["i ski ."], "dialogue": ["hi ."], "reference": reply} for reply in ("a", "b", "a")]
        loaded = load_text(tmp_path, "x.json", json.dumps(rows))
        assert [d.turns[-1].text for d in loaded.dialogues] == ["a", "b"]
