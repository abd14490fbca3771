"""The progress of an evaluation: a bar for each kind of work on a terminal, elsewhere lines, one a minute at most."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from falconer.evaluate.measure import OnProgress

# Without a terminal (a log file, a CI job), a line is printed when a kind of work begins, and then after so long.
LINE_EVERY_S = 60.0
# The share of some work that must be done before the time left is estimated.
_LEAST_SHARE = 0.01


@contextmanager
def show_progress(console: Console) -> Iterator[OnProgress]:
    """Yield a function to call with (what is being done, done, total)."""
    if not console.is_terminal:
        yield Lines(lambda line: console.print(line, soft_wrap=True, markup=False, highlight=False)).show
        return
    tasks: dict[str, TaskID] = {}
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    ) as bar:

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield show


@dataclass(slots=True)
class _Begun:
    """A kind of work that has begun: when, with how much done, and when something was last said of it."""

    at: float
    done: int
    told: float


class Lines:
    """Progress in lines: the size of each kind of work when it begins, then the time left, and how long it took.

    Args:
        say: prints a line.
        clock: in seconds.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._begun: dict[str, _Begun] = {}

    def show(self, what: str, done: int, total: int) -> None:
        """Say how far some work is, if it begins, if it took long, or if nothing was said of it for long."""
        if not total:
            return
        now = self._clock()
        if what not in self._begun:
            self._begun[what] = _Begun(now, done, now)
            self._say(what if total == 1 else f"{what}: {total:,}")
            return
        begun = self._begun[what]
        if done < total and now - begun.told >= LINE_EVERY_S:
            begun.told = now
            self._say(f"{what}: {done:,} of {total:,}{self._time_left(begun, done, total, now)}")
        elif done == total and now - begun.at >= LINE_EVERY_S:
            self._say(f"{what}: {total:,} in {duration(now - begun.at)}")

    @staticmethod
    def _time_left(begun: _Begun, done: int, total: int, now: float) -> str:
        """Return the time left in words, or "" while too little is done to tell: the first piece may take longest."""
        newly = done - begun.done
        if newly < max(1, _LEAST_SHARE * total):
            return ""
        return f", {duration((now - begun.at) * (total - done) / newly)} left"


def duration(seconds: float) -> str:
    """Return a duration in words: "12 s", "3 min", "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
