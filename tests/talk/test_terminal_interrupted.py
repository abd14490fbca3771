"""Ctrl-C in a real terminal, at any moment: it stops a reply, and never ends the conversation."""

import contextlib
import os
import pty
import random
import select
import signal
import sys
import time
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
# Replies of some hundredths of a second: to start a model would take most of the time.
CHAT = """
import time
from types import SimpleNamespace
from falconer import consoles
from falconer.talk.terminal import talk

class Session(SimpleNamespace):
    def reply(self, text):
        time.sleep(0.01)
        def pieces():
            for number in range(20):
                time.sleep(0.002)
                yield f"w{number} "
        return pieces()

session = Session(persona=["i ski"], num_dropped=0, is_base=False, decoding=SimpleNamespace(temperature=1), turns=[])
talk(session, consoles.stdout(), title="t")
print("THE END")
"""


class Terminal:
    """A program in a pseudo-terminal."""

    def __init__(self, code: str) -> None:
        self.process, self.screen = pty.fork()
        if self.process == 0:
            environment = os.environ | {"PYTHONPATH": str(SOURCE), "TERM": "xterm", "PYTHONWARNINGS": "error"}
            os.execve(sys.executable, [sys.executable, "-c", code], environment)
        self.text = ""

    def until(self, wanted: str, seconds: float = 60, since: int = 0) -> bool:
        """Read until a text is on the screen."""
        end = time.monotonic() + seconds
        while wanted not in self.text[since:] and time.monotonic() < end:
            if select.select([self.screen], [], [], 0.05)[0]:
                try:
                    self.text += os.read(self.screen, 65536).decode("utf-8", "replace")
                except OSError:
                    break
        return wanted in self.text[since:]

    def type(self, keys: str) -> None:
        os.write(self.screen, keys.encode())

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self.screen)


@pytest.fixture
def chat():
    terminal = Terminal(CHAT)
    assert terminal.until("Ctrl-D quits"), terminal.text
    assert terminal.until("you:")
    yield terminal
    terminal.close()


def test_ctrl_c_at_random_moments_after_enter(chat: Terminal) -> None:
    seed = random.SystemRandom().randrange(2**32)
    dice = random.Random(seed)
    for number in range(12):
        before = len(chat.text)
        chat.type(f"m{number}\r")
        time.sleep(dice.choice((0, 0.0005, 0.003, 0.01, dice.random() * 0.1)))
        for _ in range(dice.choice((1, 1, 2))):
            chat.type("\x03")
            time.sleep(dice.choice((0, 0.001, 0.003)))
        # The next prompt comes, whatever became of the reply.
        assert chat.until("you:", since=before + 1), (seed, number, chat.text[before:])
        time.sleep(0.2)
        assert "THE END" not in chat.text, (seed, number)
    before = len(chat.text)
    chat.type("still there\r")
    assert chat.until("w19", since=before), (seed, chat.text[before:])
    chat.type("\x04")
    assert chat.until("THE END"), (seed, chat.text[before:])


def test_two_at_the_prompt_leave(chat: Terminal) -> None:
    time.sleep(0.4)
    chat.type("\x03")
    assert chat.until("Press Ctrl-C again")
    time.sleep(0.4)
    chat.type("\x03")
    assert chat.until("THE END")


def test_a_long_line_is_echoed_at_once(chat: Terminal) -> None:
    start, before = time.monotonic(), len(chat.text)
    text = "x" * 100_000
    for place in range(0, len(text), 1000):
        chat.type(text[place : place + 1000])
        chat.until("nothing that comes", seconds=0.001)
    chat.type("\r")
    assert chat.until("w19", since=before, seconds=60), chat.text[-200:]
    assert time.monotonic() - start < 30
