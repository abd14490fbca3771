"""The line editor: what each key does, and what is completed."""

import io
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

from falconer.talk.terminal_commands import COMMANDS
from falconer.talk.terminal_input import editor, reader


def typed(keys: str) -> list[str]:
    """Return the messages that are sent by these keys."""
    with create_pipe_input() as pipe:
        session = editor(Console(), COMMANDS, pipe, DummyOutput())
        pipe.send_text(keys + "\x04")
        messages = []
        while True:
            try:
                messages.append(session.prompt("you: "))
            except EOFError:
                return messages


@pytest.mark.parametrize(
    ("keys", "messages"),
    [
        ("hello\r", ["hello"]),
        ("one\x1b\rtwo\r", ["one\ntwo"]),
        ("one\ntwo\r", ["one\ntwo"]),
        ("\x1b[200~one\r\ntwo\nthree\x1b[201~\r", ["one\ntwo\nthree"]),
        ("hullo\x1b[D\x1b[D\x1b[D\x7fe\r", ["hello"]),
        ("/forg\t\r", ["/forget"]),
        ("我😀\r", ["我😀"]),
    ],
)
def test_keys(keys: str, messages: list[str]) -> None:
    assert typed(keys) == messages


def test_ctrl_c_is_left_to_the_chat() -> None:
    with create_pipe_input() as pipe:
        pipe.send_text("half\x03")
        with pytest.raises(KeyboardInterrupt):
            editor(Console(), COMMANDS, pipe, DummyOutput()).prompt("you: ")


def completions(text: str) -> list[str]:
    completer = editor(Console(), COMMANDS, output=DummyOutput()).completer
    return [one.text for one in completer.get_completions(Document(text), CompleteEvent())]


def test_commands_and_files_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "talks.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    assert completions("/s") == ["/side", "/save"]
    assert completions("/") == list(COMMANDS)
    assert completions("/load ta") == completions("/save ta") == completions("/save --overwrite ta") == ["lks.jsonl"]
    assert completions("/persona ta") == completions("see /s") == completions("hi") == []


def test_lines_of_a_pipe_are_echoed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\x1b[2J\nbye\n"))
    read = reader(Console(width=60, highlight=False), COMMANDS)
    assert [read(), read()] == ["hello\x1b[2J", "bye"]
    with pytest.raises(EOFError):
        read()
    assert capsys.readouterr().out == "you:       hello\\x1b[2J\nyou:       bye\nyou:       "
