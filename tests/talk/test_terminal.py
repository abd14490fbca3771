"""The terminal: what the user types is obeyed or answered, and nothing that goes wrong ends the conversation."""

import io

import pytest
from rich.console import Console

from falconer.errors import FalconerError
from falconer.talk.terminal import talk

QUIT = EOFError()


class Conversation:
    """Stands in for a session: answers every line with the same pieces, or raises what stands among them."""

    def __init__(self, *pieces):
        self.pieces, self.persona, self.heard, self.forgotten, self.closed = pieces, ("I sing.",), [], 0, 0

    def reply(self, text):
        self.heard.append(text)
        try:
            for piece in self.pieces:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            self.closed += 1

    def forget(self):
        self.forgotten += 1

    def change_persona(self, persona):
        if "long" in persona[0]:
            raise FalconerError("The persona leaves no room.", "Shorten it.")
        self.persona = tuple(persona)
        self.forget()


def shown(conversation, *lines, width=60, terminal=False):
    """Return what the terminal shows while these lines are typed; an exception stands for a key."""
    typed = iter(lines)
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None, no_color=True)

    def read(prompt):
        assert prompt == "you:       "
        line = next(typed)
        if isinstance(line, BaseException):
            raise line
        return line

    talk(conversation, console, title="falcon-mini, tuned in runs/x", read=read)
    assert next(typed, None) is None, "everything was read"
    return console.file.getvalue()


def test_who_you_talk_to_and_how_to_leave_is_shown_first():
    text = shown(Conversation(), QUIT)
    for words in ("falcon-mini, tuned in runs/x", "I sing.", "/help", "Ctrl-C", "Ctrl-D"):
        assert words in text


def test_lines_are_answered():
    conversation = Conversation("I like", " dogs [b]and", " cats.")
    text = shown(conversation, "  hello ", "", "again", QUIT)
    assert conversation.heard == ["hello", "again"]
    assert text.count("assistant: I like dogs [b]and cats.\n") == 2


def test_quit():
    conversation = Conversation("hi")
    shown(conversation, "/quit")
    assert not conversation.heard


def test_forget():
    conversation = Conversation("hi")
    assert "A new conversation starts" in shown(conversation, "/forget", QUIT)
    assert (conversation.forgotten, conversation.heard) == (1, [])


def test_persona_is_shown():
    conversation = Conversation("hi")
    assert shown(conversation, "/persona", QUIT).count("I sing.") == 2
    assert not conversation.forgotten


def test_persona_is_changed():
    conversation = Conversation("hi")
    text = shown(conversation, "/persona I have a cat. Do I run? Yes", QUIT)
    assert conversation.persona == ("I have a cat.", "Do I run?", "Yes")
    assert "Do I run?" in text


def test_a_persona_that_does_not_fit_is_explained():
    conversation = Conversation("hi")
    assert "The persona leaves no room. Shorten it." in shown(conversation, "/persona long", QUIT)
    assert conversation.persona == ("I sing.",)


@pytest.mark.parametrize("command", ["/help", "/wat"])
def test_commands_are_listed(command):
    conversation = Conversation("hi")
    text = shown(conversation, command, QUIT)
    for name in ("/persona", "/forget", "/help", "/quit"):
        assert name in text
    assert ("Unknown command: /wat." in text) == (command == "/wat")
    assert not conversation.heard


def test_ctrl_c_ends_the_reply_and_not_the_conversation():
    conversation = Conversation("I was about", KeyboardInterrupt())
    text = shown(conversation, "hello", "hello", QUIT)
    assert text.count("I was about (stopped)") == 2
    assert conversation.closed == 2


def test_ctrl_c_at_the_prompt_twice_leaves():
    assert "Ctrl-C again" in shown(Conversation(), KeyboardInterrupt(), KeyboardInterrupt())


def test_ctrl_c_at_the_prompt_once_does_not():
    conversation = Conversation("hi")
    shown(conversation, KeyboardInterrupt(), "hello", KeyboardInterrupt(), "hello", QUIT)
    assert conversation.heard == ["hello", "hello"]


def test_a_message_that_does_not_fit_is_explained():
    conversation = Conversation(FalconerError("That is too long.", "Say it in fewer words."))
    assert "That is too long. Say it in fewer words." in shown(conversation, "hello", QUIT)


def test_bytes_that_are_no_text_are_explained():
    conversation = Conversation("hi")
    wrong = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    assert "not valid UTF-8" in shown(conversation, wrong, "hello", QUIT)
    assert conversation.heard == ["hello"]


def test_lines_break_between_words_under_the_first():
    words = "the quick brown fox jumps over the lazy dog and runs away from all of them"
    pieces = [f"{' ' if number else ''}{word}" for number, word in enumerate(words.split())]
    text = shown(Conversation(*pieces), "hello", QUIT, width=40, terminal=True)
    answer = text[text.index("assistant:") :].rstrip("\n").split("\n")
    assert len(answer) == 3
    assert all(len(line) <= 40 for line in answer)
    assert all(line.startswith(" " * 11) and line[11] != " " for line in answer[1:])
    assert " ".join(" ".join(answer).split()) == f"assistant: {words}"


def test_a_file_gets_replies_unbroken():
    words = "word " * 40
    assert f"assistant: {words}\n" in shown(Conversation(words), "hello", QUIT, width=40)


def test_lines_that_are_not_typed_are_echoed(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n/quit\n"))
    talk(Conversation("hi"), Console(width=60, highlight=False))
    assert "you:       hello\nassistant: hi\nyou:       /quit\n" in capsys.readouterr().out
