"""Ctrl-C at random moments of real commands in a real terminal: from the start to the end of train, evaluate and chat.

    python tests/torture/interrupts.py --times 200 --seed 1 --out RESULTS.json

Each time, the command must end within a minute (a chat goes on, and then leaves at Ctrl-D), without a traceback, and an
interrupted training must go on with --resume. The last row of the figures is how long the slowest took to obey.
"""

import argparse
import contextlib
import json
import os
import pty
import random
import re
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "src")]

from small_runs import Small  # noqa: E402

SETTINGS = ("train.max_steps=30", "train.validate_every=10", "evaluate.max_replies=20", "evaluate.resamples=100")
MOST_S = 60


class Screen:
    """A command in a pseudo-terminal, and what it showed."""

    def __init__(self, *arguments: str) -> None:
        self.process, self.terminal = pty.fork()
        if self.process == 0:
            environment = os.environ | {
                "PYTHONPATH": str(TESTS.parent / "src"),
                "OMP_NUM_THREADS": "1",
                "TERM": "xterm",
            }
            os.execve(sys.executable, [sys.executable, "-m", "falconer", *arguments], environment)
        self.text, self.code = "", None

    def watch(self, seconds: float, until: str = "") -> bool:
        """Read for some time, or until a text is shown or the command ends; tell whether one of these happened."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not (until and until in self.text):
            if select.select([self.terminal], [], [], 0.02)[0]:
                try:
                    self.text += os.read(self.terminal, 65536).decode("utf-8", "replace")
                except OSError:
                    break
        if self.code is None:
            process, status = os.waitpid(self.process, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if process else None
        return self.code is not None or bool(until and until in self.text)

    def press(self, key: str) -> None:
        with contextlib.suppress(OSError):
            os.write(self.terminal, key.encode())

    def close(self) -> None:
        if self.code is None:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        os.close(self.terminal)


def interrupted(arguments: list[str], after_s: float, dice: random.Random) -> tuple[Screen, float]:
    """Start a command and press Ctrl-C after some time, once or twice; wait for its end."""
    screen = Screen(*arguments)
    screen.watch(after_s)
    pressed = time.monotonic()
    for _ in range(dice.choice((1, 1, 2))):
        screen.press("\x03")
        time.sleep(dice.choice((0.0, 0.002, 0.05)))
    while not screen.watch(0.2) and time.monotonic() - pressed < MOST_S:
        if arguments[0] == "chat":
            screen.press("\x04")
    return screen, time.monotonic() - pressed


def judged(screen: Screen, took_s: float) -> str:
    """Return what is wrong with how a command ended; "" if nothing is."""
    if "Traceback" in screen.text:
        return "a traceback"
    if screen.code is None:
        return f"still there after {took_s:.0f} s"
    return "" if screen.code in (0, 1, 130) else f"exit code {screen.code}"


def campaign(times: int, seed: int) -> dict[str, Any]:
    results: dict[str, Any] = {"seed": seed}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = Small(folder)
        small.run(folder / "done", *SETTINGS)
        length_s = dict.fromkeys(("train", "evaluate", "chat"), 25.0)
        for command in length_s:
            dice, wrong, slowest = random.Random(f"{seed} {command}"), Counter[str](), 0.0
            for number in range(times):
                run = folder / "run"
                shutil.rmtree(run, ignore_errors=True)
                arguments = (
                    small.arguments(run, *SETTINGS) if command == "train" else [command, "--run", str(folder / "done")]
                )
                screen, took_s = interrupted(arguments, dice.random() * length_s[command], dice)
                problem = judged(screen, took_s)
                if command == "train" and not problem and (run / "config.yaml").exists() and screen.code == 130:
                    screen.close()
                    screen = Screen("train", "--run", str(run), "--resume")
                    screen.watch(MOST_S, until="Done after")
                    problem = "" if "Done after" in screen.text else "it can't be resumed"
                screen.close()
                slowest = max(slowest, took_s)
                wrong[problem] += bool(problem)
                if problem:
                    tail = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.text)[-600:]
                    print(f"{command} {number}: {problem}\n{tail}", flush=True)
            failures = {problem: number for problem, number in wrong.items() if number}
            results[command] = {"times": times, "failed": sum(failures.values()), "slowest_s": round(slowest, 1)}
            print(command, results[command], failures or "", flush=True)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description="Ctrl-C at random moments of train, evaluate and chat.")
    parser.add_argument("--times", type=int, default=200, help="how often each command is interrupted")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--out", type=Path, help="the figures, as JSON")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    results = campaign(given.times, given.seed)
    if given.out:
        given.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return int(any(isinstance(one, dict) and one["failed"] for one in results.values()))


if __name__ == "__main__":
    sys.exit(main())
