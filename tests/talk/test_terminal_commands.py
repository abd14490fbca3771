"""Commands: what they do to the conversation, what they save and load, and how they refuse."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from falconer.data.encode import Encoder
from falconer.data.sources import load_dialogues
from falconer.errors import FalconerError
from falconer.model.engine import Decoding
from falconer.model.tokenizer import load_tokenizer
from falconer.records import Turn
from falconer.talk.personas import sample_personas
from falconer.talk.session import Session
from falconer.talk.terminal_commands import obey
from parrot import Parrot

TURNS = [Turn("partner", "Hi! You?"), Turn("self", "I'm fine.")]


TOKENIZER, END_ID = load_tokenizer("falcon-mini")
ENCODER = Encoder(TOKENIZER.backend_tokenizer.to_str(), END_ID, 160)


@pytest.fixture
def session() -> Session:
    return Session(Parrot(TOKENIZER, ENCODER), ["I sing."], Decoding(max_new_tokens=32))


def shown(session: Session, line: str) -> str:
    console = Console(file=io.StringIO(), width=100)
    command, _, argument = line.partition(" ")
    obey(command, argument, session, console, "title")
    return console.file.getvalue()


def test_a_conversation_is_saved_and_loaded_again(session, tmp_path: Path) -> None:
    session.turns = list(TURNS)
    assert f"2 turns saved to {tmp_path / 'talk.jsonl'}" in " ".join(shown(session, f"/save {tmp_path}/talk").split())
    (saved,) = load_dialogues(str(tmp_path / "talk.jsonl")).dialogues
    assert (saved.id, saved.persona, list(saved.turns)) == ("talk", ("I sing.",), TURNS)
    session.change_persona([])
    text = shown(session, f"/load {tmp_path}/talk.jsonl")
    assert (session.persona, session.turns) == (("I sing.",), TURNS)
    assert "you:       Hi! You?" in text and "assistant: I'm fine." in text and "I sing." in text


def test_a_file_is_never_overwritten_unasked(session, tmp_path: Path) -> None:
    session.turns = list(TURNS)
    path = tmp_path / "talk.jsonl"
    path.write_text("mine")
    with pytest.raises(FalconerError, match=r"talk\.jsonl' exists.*/save --overwrite"):
        shown(session, f"/save {path}")
    assert path.read_text() == "mine"
    shown(session, f"/save --overwrite {path}")
    assert len(load_dialogues(str(path)).dialogues) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/save", "name of a file is missing"),
        ("/load ", "name of a file is missing"),
        ("/load nowhere.jsonl", "'nowhere.jsonl' is no file"),
        ("/load a/b", "is no file"),
        ("/load x\0", r"U\+0000"),
        ("/save ~nobody-of-this-name/x", "unknown user"),
        ("/save /", "'/' is a folder"),
        ("/load persona-chat-sample 99999", "has 2,344 dialogues, and none of number 99999"),
        ("/load persona-chat-sample 0", "none of number 0"),
        ("/sav x", r"Unknown command: /sav\. Did you mean '/save'\?"),
    ],
)
def test_what_can_not_be_done_is_explained(session, line: str, message: str) -> None:
    session.turns = list(TURNS)
    with pytest.raises(FalconerError, match=message):
        shown(session, line)
    assert session.turns == TURNS


def test_without_a_reply_there_is_nothing_to_save(session, tmp_path: Path) -> None:
    with pytest.raises(FalconerError, match="no reply to save"):
        shown(session, f"/save {tmp_path}/x")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_several_dialogues(session, tmp_path: Path) -> None:
    dialogues = load_dialogues("persona-chat-sample").dialogues
    text = shown(session, "/load persona-chat-sample 7")
    assert len(session.turns) == len(dialogues[6].turns)
    assert "This is dialogue 7 of 2,344" in text and "earlier turns not shown" in text
    # Raw text is shown as natural text.
    assert session.persona[0][0].isupper() and session.turns[0].text[0].isupper()
    numbered = tmp_path / "talk 2"
    numbered.write_text('{"id": "a", "persona": [], "turns": [{"speaker": "self", "text": "Hi."}]}\n')
    shown(session, f"/load {numbered}")
    assert session.turns == [Turn("self", "Hi.")]


def test_a_loaded_message_without_a_reply_is_told(session, tmp_path: Path) -> None:
    path = tmp_path / "open.jsonl"
    turns = '[{"speaker": "self", "text": "Hi."}, {"speaker": "partner", "text": "Well?"}]'
    path.write_text(f'{{"id": "a", "persona": [], "turns": {turns}}}\n')
    assert "The last message has no reply yet" in shown(session, f"/load {path}")


def test_what_a_damaged_file_says_is_explained(session, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "turns": 7, "persona": []}\n')
    with pytest.raises(FalconerError, match="turns"):
        shown(session, f"/load {tmp_path}/bad.jsonl")
    assert session.persona == ("I sing.",)


def test_a_random_persona_is_one_of_the_sample(session) -> None:
    session.turns = list(TURNS)
    text = shown(session, "/random")
    assert session.persona in sample_personas(1000, 0) and session.persona[0] in text
    assert session.turns == []


def test_undo_and_base(session) -> None:
    session.turns = list(TURNS)
    assert "Taken back: Hi! You?" in shown(session, "/undo")
    assert session.turns == []
    assert "base model" in shown(session, "/base") and session.is_base
    assert "tuned model" in shown(session, "/base") and not session.is_base
