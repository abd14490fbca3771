"""Ctrl-C at random moments of real commands in a real terminal, from their start to their end.

Each command must end within a minute with exit code 130 and without a traceback, unless it had come to its end before.
What it worked on is then in the old state or in the new one, and an interrupted training continues. A chat stops the
reply and goes on.
"""

import contextlib
import os
import pty
import random
import re
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

from torture.kills import finished
from torture.worlds import World
from torture.writers import Scene

TESTS = Path(__file__).parents[1]
MOST_S = 60
INTERRUPTED = 130
CHAT_IS_READY = "Ctrl-D quits."


class Screen:
    """A command in a pseudo-terminal, and what it showed."""

    def __init__(self, *arguments: str) -> None:
        self.process, self.terminal = pty.fork()
        if self.process == 0:
            source = os.pathsep.join([str(TESTS.parent / "src"), os.environ.get("PYTHONPATH", "")])
            environment = os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1", "TERM": "xterm"}
            os.execve(sys.executable, [sys.executable, "-m", "falconer", *arguments], environment)
        self.text, self.code = "", None

    def watch(self, seconds: float, until: str = "", since: int = 0) -> bool:
        """Read for some time, or until a text is shown or the command ends; tell whether one of these happened."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not (until and until in self.text[since:]):
            if select.select([self.terminal], [], [], 0.02)[0]:
                try:
                    self.text += os.read(self.terminal, 65536).decode("utf-8", "replace")
                except OSError:
                    break
        if self.code is None:
            process, status = os.waitpid(self.process, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if process else None
        return self.code is not None or bool(until and until in self.text[since:])

    def wait(self) -> None:
        """Read until the command ends, at most a minute."""
        end = time.monotonic() + MOST_S
        while not self.watch(0.2) and time.monotonic() < end:
            pass

    def press(self, key: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self.terminal, key.encode())

    def close(self) -> None:
        if self.code is None:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        os.close(self.terminal)


def interrupt_training(world: World, length_s: float, dice: random.Random) -> dict[str, Any]:
    """Interrupt a training, continue it, and compare the run with one that was never interrupted."""
    world.start_with(None)
    found = _interrupted(world.train, length_s, dice)
    return found | {"wrong": found["wrong"] or finished(world)}


def interrupt_writer(world: World, scene: Scene, length_s: float, dice: random.Random) -> dict[str, Any]:
    """Interrupt another command that writes."""
    scene.start(world)
    found = _interrupted(list(scene.writer.arguments), length_s, dice)
    return found | {"wrong": found["wrong"] or scene.wrong(world)}


def interrupt_chat(world: World, length_s: float, dice: random.Random) -> dict[str, Any]:
    """Interrupt a chat while it loads, which ends it, or around a message, which stops the reply and nothing else."""
    world.start_with(world.evaluated)
    if dice.random() < 0.3:
        return _interrupted(["chat", "--run", str(world.run)], length_s, dice, when_done="\x04")
    screen = Screen("chat", "--run", str(world.run))
    try:
        return {"stopped": 1, "wrong": _messages(screen, dice)}
    finally:
        screen.close()


def undisturbed_s(arguments: list[str]) -> float:
    """Return how long a command takes in a terminal; a chat, until it has loaded."""
    screen, began = Screen(*arguments), time.monotonic()
    if arguments[0] == "chat":
        screen.watch(MOST_S, until=CHAT_IS_READY)
    else:
        screen.wait()
    took_s = time.monotonic() - began
    screen.close()
    return took_s


def _interrupted(arguments: list[str], length_s: float, dice: random.Random, when_done: str = "") -> dict[str, Any]:
    """Press Ctrl-C at a random moment of a command, once or twice, and wait for its end.

    Args:
        when_done: a key that ends it if it had loaded before.
    """
    after_s = dice.uniform(0, 1.05 * length_s)
    screen = Screen(*arguments)
    try:
        screen.watch(after_s)
        was_over = screen.code is not None
        pressed = time.monotonic()
        for _ in range(dice.choice((1, 1, 2))):
            screen.press("\x03")
            time.sleep(dice.choice((0.0, 0.002, 0.05)))
        while not screen.watch(0.2) and time.monotonic() - pressed < MOST_S:
            if when_done and CHAT_IS_READY in screen.text:
                screen.press(when_done)
        took_s = time.monotonic() - pressed
        return {
            "stopped": int(screen.code in (INTERRUPTED, -signal.SIGINT)), "moments": [after_s], "took_s": took_s,
            "wrong": "" if was_over and screen.code == 0 else _wrong(screen),
        }  # fmt: skip
    finally:
        screen.close()


def _messages(screen: Screen, dice: random.Random) -> str:
    """Type messages into a chat, with Ctrl-C around each; return what is wrong with what it does."""
    if not screen.watch(MOST_S, until=CHAT_IS_READY):
        return f"the chat does not start: {_tail(screen)}"
    for _ in range(3):
        screen.watch(dice.uniform(0, 1))
        screen.press("hello there\r")
        for _ in range(dice.choice((1, 1, 2))):
            time.sleep(dice.choice((0.0, 0.0005, 0.003, dice.uniform(0, 0.5))))
            screen.press("\x03")
    screen.watch(2)
    if screen.code is not None:
        return f"Ctrl-C at a reply ended the chat with {screen.code}: {_tail(screen)}"
    seen = len(screen.text)
    screen.press("/help\r")
    if not screen.watch(20, until="/persona", since=seen) or screen.code is not None:
        return f"the chat no longer answers: {_tail(screen)}"
    screen.watch(0.5)
    screen.press("\x04")
    screen.wait()
    return "" if screen.code == 0 and "Traceback" not in screen.text else f"{screen.code}: {_tail(screen)}"


def _wrong(screen: Screen) -> str:
    """Return what is wrong with how a command ended; "" if nothing is."""
    if screen.code is None:
        return f"still there after {MOST_S} s: {_tail(screen)}"
    if screen.code == -signal.SIGINT or _is_of_python(screen.text):
        return ""  # Python had not begun with falconer
    if "Traceback" in screen.text:
        return f"a traceback: {_tail(screen)}"
    if screen.code == INTERRUPTED and "nterrupted" not in screen.text:
        return f"it ends without a word: {_tail(screen)}"
    return "" if screen.code in (0, INTERRUPTED) else f"exit code {screen.code}: {_tail(screen)}"


def _is_of_python(text: str) -> bool:
    """Return whether a traceback is of Python's own start, before falconer's first line that could catch anything."""
    places = re.findall(r'File "([^"]+)"', text)
    # A checkout's own folder may be called falconer, too.
    ours = [place for place in places if "/src/falconer/" in place]
    ours = [place for place in ours if not place.endswith(("/__init__.py", "/__main__.py"))]
    return "KeyboardInterrupt" in text and not ours


def _tail(screen: Screen) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.text)[-500:]
