"""Kaggle's and Google's tables: who says what in a cell, and what is nobody's."""

from pathlib import Path
from typing import Any

import pytest

from corpus_files import FIXTURES, load_text, said
from falconer.data.sources import load_dialogues


class TestSynthetic:
    HEADER = "user 1 personas,user 2 personas,Best Generated Conversation\n"

    def load(self, tmp_path: Path, *lines: str) -> Any:
        conversation = "\n".join(lines).replace('"', '""')
        good = "User 1: one\nUser 2: two"
        return load_text(tmp_path, "x.csv", f'{self.HEADER}"I ski.\nI cook.",I sing.,"{conversation}"\n,,"{good}"\n')

    def test_both_sides(self) -> None:
        loaded = load_dialogues(str(FIXTURES / "synthetic.csv"))
        assert loaded.format == "synthetic"
        two = [dialogue for dialogue in loaded.dialogues if dialogue.id.endswith("/2")]
        ours = load_dialogues(str(FIXTURES / "falconer.jsonl")).dialogues
        assert [(d.persona, d.partner_persona, said(d)) for d in two] == [
            (d.persona, d.partner_persona, said(d)) for d in ours
        ]
        one = [dialogue for dialogue in loaded.dialogues if dialogue.id.endswith("/1")]
        assert [(d.persona, d.partner_persona) for d in one] == [(d.partner_persona, d.persona) for d in ours]
        assert loaded.quirks == {"empty conversation left out": 1}

    def test_labels_vary(self, tmp_path: Path) -> None:
        lines = ("User 1: a", "* User 2: b", "*User 1: c", "**User 2:** d", "[User 1]: e", "user 2 : f")
        dialogue = self.load(tmp_path, *lines).dialogues[0]
        assert [text for _, text in said(dialogue)] == list("abcdef")
        assert [speaker for speaker, _ in said(dialogue)] == ["self", "partner"] * 3

    def test_two_names_throughout(self, tmp_path: Path) -> None:
        dialogue = self.load(tmp_path, "Ann: hi", "Bob Lee: hello", "Ann: bye").dialogues[0]
        assert said(dialogue) == [("self", "hi"), ("partner", "hello"), ("self", "bye")]

    def test_lines_without_a_label(self, tmp_path: Path) -> None:
        lines = ("User 1: here it is:", "", "Ingredients:", "1 onion", "[later]", "* * *", "(They eat.)", "User 2: yum")
        loaded = self.load(tmp_path, *lines)
        assert said(loaded.dialogues[0]) == [("self", "here it is:\nIngredients:\n1 onion"), ("partner", "yum")]
        assert loaded.quirks == {"line without a label kept": 2, "stage direction dropped": 3}

    def test_a_third_speaker_and_consecutive_turns(self, tmp_path: Path) -> None:
        lines = ("User 1: hi", "User 1: you", "Adam: me too.", "User 2:", "User 2: [User 1's name]!")
        loaded = self.load(tmp_path, *lines)
        assert said(loaded.dialogues[0]) == [("self", "hi you"), ("partner", "[User 1's name]!")]
        assert loaded.quirks == {
            "consecutive turns of one speaker merged": 1,
            "empty turn dropped": 1,
            "line of a third speaker dropped": 1,
            "placeholder for a name kept": 1,
        }

    def test_a_forgotten_first_label(self, tmp_path: Path) -> None:
        assert said(self.load(tmp_path, "Hi!", "I am me.", "User 2: hello").dialogues[0]) == [
            ("self", "Hi!\nI am me."),
            ("partner", "hello"),
        ]
        assert said(self.load(tmp_path, "A chat", "User 1: hello", "User 2: hi").dialogues[0]) == [
            ("self", "hello"),
            ("partner", "hi"),
        ]

    @pytest.mark.parametrize("text", ["", "They talk for hours.", "User 1:\nUser 2:"])
    def test_nobody_says_anything(self, tmp_path: Path, text: str) -> None:
        loaded = self.load(tmp_path, text)
        assert [d.persona for d in loaded.dialogues] == [(), ()]
        assert loaded.quirks["empty conversation left out"] == 1

    def test_one_side_only(self, tmp_path: Path) -> None:
        assert [d.id for d in self.load(tmp_path, "User 1: hi").dialogues] == ["x-00002/1", "x-00004/1", "x-00004/2"]


def test_kaggle_persona_is_cut_into_sentences(tmp_path: Path) -> None:
    persona = " i wake up at 5 a.m. every day. i met dr. who! do you ski? i like vitamin c. bye"
    loaded = load_text(tmp_path, "x.csv", f',Persona,chat\n0,{persona},"a\n\nb\nc\n"\n1,,x\n')
    (dialogue,) = loaded.dialogues
    assert dialogue.persona == (
        "i wake up at 5 a.m. every day.",
        "i met dr. who!",
        "do you ski?",
        "i like vitamin c.",
        "bye",
    )
    assert said(dialogue) == [("partner", "a"), ("self", "b"), ("partner", "c")]
    assert loaded.quirks == {"empty row left out": 1}
