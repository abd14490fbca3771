"""The terminal: what the user types is obeyed or answered, and nothing that goes wrong ends the conversation."""

import fcntl
import io
import os
import pty
import select
import struct
import sys
import termios
import time
from pathlib import Path
from types import SimpleNamespace

from rich.console import Console

from falconer.errors import FalconerError
from falconer.talk.terminal import talk

QUIT = EOFError()


class Conversation:
    """Stands in for a session: answers every line with the same pieces, or raises what stands among them."""

    def __init__(self, *pieces, temperature=0.7):
        self.pieces, self.persona, self.heard, self.forgotten, self.closed = pieces, ("I sing.",), [], 0, 0
        self.is_base, self.num_dropped, self.retried, self.turns = False, 0, 0, []
        self.decoding = SimpleNamespace(temperature=temperature)

    def reply(self, text):
        self.heard.append(text)
        try:
            for piece in self.pieces:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            self.closed += 1

    def both(self, text):
        for piece in self.reply(text):
            yield False, piece
            yield True, piece.upper()

    def retry(self):
        self.retried += 1
        return self.reply("again")

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

    def read():
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


def test_commands_are_listed():
    conversation = Conversation("hi")
    text = shown(conversation, "/help", QUIT)
    for name in ("/persona", "/forget", "/help", "/quit"):
        assert name in text
    assert "Ctrl-C" in text
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


def test_a_file_gets_replies_unbroken():
    words = "word " * 40
    assert f"assistant: {words}\n" in shown(Conversation(words), "hello", QUIT, width=40)


def test_lines_that_are_not_typed_are_echoed(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n/quit\n"))
    talk(Conversation("hi"), Console(width=60, highlight=False))
    assert "you:       hello\nassistant: hi\nyou:       /quit\n" in capsys.readouterr().out


def test_a_message_may_begin_with_a_slash():
    conversation = Conversation("hi")
    assert "Unknown command: /wat." in shown(conversation, "/wat", "//wat is up", QUIT)
    assert conversation.heard == ["/wat is up"]


def test_another_reply_is_shown():
    conversation = Conversation("hi")
    text = shown(conversation, "hello", "/retry", QUIT)
    assert text.count("assistant: hi\n") == 2 and conversation.retried == 1
    assert "Greedy decoding gives the same reply" not in text
    assert "Greedy decoding gives the same reply" in shown(Conversation("hi", temperature=0), "/retry", QUIT)


def test_the_base_model_has_a_label_of_its_own():
    text = shown(Conversation("hi"), "/base", "hello", "/base", "hello", QUIT)
    assert text.index("base:      hi\n") < text.index("assistant: hi\n")


def test_both_replies_are_shown_until_that_is_switched_off():
    conversation = Conversation("hi", " you")
    text = shown(conversation, "/side", "hello", "/side", "hello", QUIT)
    assert text.count("assistant: hi you\n") == 2 and text.count("base:      HI YOU\n") == 1
    stopped = shown(Conversation("I was", KeyboardInterrupt()), "/side", "hello", QUIT)
    assert "assistant: I was (stopped)" in stopped and "base:      I WAS (stopped)" in stopped


def test_turns_that_no_longer_fit_are_told_once():
    conversation = Conversation("hi")

    def reply(text):
        conversation.num_dropped = 4
        yield "hi"

    conversation.reply = reply
    assert shown(conversation, "hello", "hello", QUIT, width=100).count("model's context: 4 turns left out.") == 1


def test_control_characters_are_shown_and_never_sent():
    conversation = Conversation("a\x1b[2J", "b\r\x07c\u202ed\x9bm")
    conversation.persona = ("I \x1b]0;x\x07sing.",)
    text = shown(conversation, "hello", "/side", "hello", "/\x1b[1m", "/load \udc80\x1b", QUIT, terminal=True)
    assert r"a\x1b[2Jb\r\x07c\u202ed\x9bm" in text
    assert r"I \x1b]0;x\x07sing." in text and r"\udc80\x1b" in text
    assert not any(char in text for char in "\x07\x9b\u202e\udc80") and "\x1b[2J" not in text


CHILD = """
import sys, time
sys.path[:0] = [{tests!r}, {source!r}]
from falconer import consoles
from falconer.talk.terminal import talk
from test_terminal import Conversation

class Slow(Conversation):
    def reply(self, text):
        yield "You said: "
        yield repr(text)
        if text == "slow":
            yield " wait"
            # A signal just before a sleep begins does not shorten it; the next one is short.
            for _ in range(1200):
                time.sleep(0.05)
        elif text == "pause":
            yield " pause"
            time.sleep(1)

talk(Slow(), consoles.stdout())
print("left")
"""


class Terminal:
    """A pseudo-terminal of 60 columns in which a chat runs in a process of its own."""

    def __init__(self, **environment: str) -> None:
        here = Path(__file__).resolve()
        child = CHILD.format(tests=str(here.parent), source=str(here.parents[2] / "src"))
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            # Its answer to a question for the cursor's place is not awaited, as nobody gives one here.
            given = os.environ | {"TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"} | environment
            os.execve(sys.executable, [sys.executable, "-c", child], given)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
        self.text = ""

    def wait_for(self, text: str, times: int = 1) -> None:
        deadline = time.monotonic() + 60
        while self.text.count(text) < times and time.monotonic() < deadline:
            if select.select([self._fd], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self._fd, 65536).decode("utf-8", "replace")
                except OSError:  # on Linux, the end
                    break
        assert self.text.count(text) >= times, self.text

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def close(self) -> int:
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        os.close(self._fd)
        return code


def test_a_real_terminal():
    """Sending, line breaks, a pasted message of two lines, history, completion, typing ahead, Ctrl-C, no colours."""
    terminal = Terminal(NO_COLOR="1")
    terminal.wait_for("you:")
    terminal.type("one\x1b\rtwo\r")
    terminal.wait_for(repr("one\ntwo"))
    terminal.type("\x1b[200~three\r\nfour\x1b[201~")
    terminal.type("\r")
    terminal.wait_for(repr("three\nfour"))
    terminal.type("five\nsix\r")
    terminal.wait_for(repr("five\nsix"))
    terminal.type("seven\r")
    terminal.wait_for(repr("seven"))
    terminal.type("\x1b[A!\r")
    terminal.wait_for(repr("seven!"))
    terminal.type("/forg\t\r")
    terminal.wait_for("A new conversation starts.")
    terminal.type("slow\r")
    terminal.wait_for("wait")
    terminal.type("\x03")
    terminal.wait_for("(stopped)")
    terminal.type("pause\r")
    terminal.wait_for("'pause' pause")
    terminal.type("ahead\r")
    terminal.wait_for(repr("ahead"))
    terminal.type("\x04")
    terminal.wait_for("left")
    assert terminal.close() == 0
    assert "38;5" not in terminal.text
    assert not any(f"\x1b[{more}{code}m" in terminal.text for more in ("", "1;", "0;") for code in range(30, 38))
