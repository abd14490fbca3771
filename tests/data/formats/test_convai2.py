"""ConvAI2's text: where dialogues begin, and what on a line is no text of the dialogue."""

from pathlib import Path

import pytest

from corpus_files import load_text, said
from falconer.data.sources import load_dialogues


class TestConvai2:
    def test_restart_of_line_numbers_begins_a_dialogue(self, tmp_path: Path) -> None:
        loaded = load_text(tmp_path, "x.txt", "1 hi\thello\n2 a\tb\n1 yo\they\n3 bye\tbye\n2 again\tyes\n")
        assert [len(d.turns) for d in loaded.dialogues] == [4, 4, 2]
        assert [d.id for d in loaded.dialogues] == ["x-00001", "x-00002", "x-00003"]

    @pytest.mark.parametrize("silence", ["__SILENCE__", "__ SILENCE __", "__silence__"])
    def test_silence_means_the_bot_opens(self, tmp_path: Path, silence: str) -> None:
        loaded = load_text(tmp_path, "x.txt", f"1 your persona: i ski.\n2 {silence}\thello .\n3 hi .\tbye .\n")
        assert said(loaded.dialogues[0]) == [("self", "hello ."), ("partner", "hi ."), ("self", "bye .")]
        assert loaded.quirks == {"silence dropped": 1}

    def test_reward_and_knowledge_triples_are_no_text(self, tmp_path: Path) -> None:
        content = "1 your persona: i ski.\ti\tlike\tskiing\n2 i\tlike_sport\tskiing\n"
        content += "3 hi\thello\t0.5\n4 a\tb\t\n5 c\td\t1\tx|d\n"
        (dialogue,) = load_text(tmp_path, "x.txt", content).dialogues
        assert dialogue.persona == ("i ski.",)
        assert [text for _, text in said(dialogue)] == ["hi", "hello", "a", "b", "c", "d"]
        assert dialogue.turns[-1].candidates == ("x", "d")

    def test_other_leaves_the_sides_as_they_are(self, tmp_path: Path) -> None:
        (dialogue,) = load_text(tmp_path, "x.txt", "1 partner's persona: i ski.\n2 hi\thello\n").dialogues
        assert (dialogue.persona, dialogue.partner_persona) == ((), ("i ski.",))
        assert said(dialogue) == [("partner", "hi"), ("self", "hello")]

    def test_a_last_message_without_reply_stays(self, tmp_path: Path) -> None:
        loaded = load_text(tmp_path, "x.txt", "1 hi\thello\n2 bye\n")
        assert said(loaded.dialogues[0])[-1] == ("partner", "bye")
        assert loaded.quirks == {"message without a reply": 1}

    def test_windows_line_ends_byte_order_mark_and_line_separators(self, tmp_path: Path) -> None:
        # U+2028 and U+0085 are characters of the text, not line ends.
        (tmp_path / "x.txt").write_bytes("\ufeff1 hi\u2028you\x85 !\thello\r\n\r\n2 a\tb\r\n".encode())
        (dialogue,) = load_dialogues(str(tmp_path / "x.txt")).dialogues
        assert [text for _, text in said(dialogue)] == ["hi\u2028you\x85 !", "hello", "a", "b"]
