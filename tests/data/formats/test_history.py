"""Formats that repeat the history: its turns once, by the right speakers, and gold the last candidate."""

import json
from pathlib import Path

import pytest

from corpus_files import load_text, said
from falconer.data.sources import load_dialogues
from falconer.errors import FalconerError


class TestHistory:
    @staticmethod
    def entry(*utterances: tuple[list[str], str]) -> str:
        rows = [{"history": history, "candidates": ["no .", gold]} for history, gold in utterances]
        return json.dumps({"personality": ["i ski ."], "utterances": rows}) + "\n"

    def test_silence_opens(self, tmp_path: Path) -> None:
        silence = "__ SILENCE __"
        content = self.entry(([silence], "hello ."), ([silence, "hello .", "hi ."], "bye ."))
        (dialogue,) = load_text(tmp_path, "x.jsonl", content * 2).dialogues[:1]
        assert said(dialogue) == [("self", "hello ."), ("partner", "hi ."), ("self", "bye .")]

    def test_histories_that_hold_only_the_latest_utterances(self, tmp_path: Path) -> None:
        full = self.entry((["a"], "b"), (["a", "b", "c"], "d"), (["a", "b", "c", "d", "e"], "f"))
        window = self.entry((["a"], "b"), (["a", "b", "c"], "d"), (["c", "d", "e"], "f"))
        one, two = load_text(tmp_path, "x.jsonl", full + window).dialogues
        assert one.turns == two.turns
        assert [text for _, text in said(one)] == list("abcdef")

    def test_a_first_history_with_earlier_turns(self, tmp_path: Path) -> None:
        content = self.entry((["a", "b", "c"], "d"))
        (dialogue,) = load_text(tmp_path, "x.json", content).dialogues
        assert said(dialogue) == [("partner", "a"), ("self", "b"), ("partner", "c"), ("self", "d")]


@pytest.mark.parametrize("kind", ["transfertransfo", "truecased"])
def test_a_gold_reply_that_does_not_stand_last(tmp_path: Path, kind: str) -> None:
    """Histories tell which candidate was said; learning the last one would be learning a wrong reply."""
    said = ["hi", "hello", "bye", "see you"]
    for gold_is_last in (True, False):
        turns = [
            {"history": said[:n], "candidates": ["no", said[n]] if gold_is_last else [said[n], "no"]} for n in (1, 3)
        ]
        rows: list[dict[str, object]] = [{"personality": ["i ski."], "utterances": turns}]
        if kind == "truecased":
            rows = [
                {"personality": ["i ski."], "conv_id": 1, "utterance_idx": i} | turn for i, turn in enumerate(turns)
            ]
        (tmp_path / "x.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        if gold_is_last:
            (dialogue,) = load_dialogues(str(tmp_path / "x.jsonl")).dialogues
            assert [turn.text for turn in dialogue.turns] == said
        else:
            with pytest.raises(FalconerError, match="history goes on with 'hello', which is not the last"):
                load_dialogues(str(tmp_path / "x.jsonl"))
