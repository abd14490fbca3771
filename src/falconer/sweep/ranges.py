"""A range of values that a search draws from: how it is written on the command line, and how its values are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from falconer.errors import FalconerError

_WRITTEN = (
    "Write LOW..HIGH; LOW..HIGH:log to draw evenly on a logarithmic scale; or, for whole numbers, LOW..HIGH:STEP. For "
    "example: train.learning_rate=1e-4..1e-2:log lora.r=8..64:8"
)
# A value is written with steps of at most this share of its range, or of itself on a logarithmic scale.
_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Range:
    """All numbers between two, which belong to it.

    Args:
        is_whole: whole numbers alone.
        is_log: drawn evenly on a logarithmic scale.
        step: of whole numbers, from `low` on.
    """

    low: float
    high: float
    is_whole: bool = False
    is_log: bool = False
    step: int = 1

    def __str__(self) -> str:
        """As it is written on the command line."""
        low, high = (int(end) if self.is_whole else end for end in (self.low, self.high))
        return f"{low}..{high}" + (":log" if self.is_log else "") + (f":{self.step}" if self.step > 1 else "")

    @property
    def num_values(self) -> float:
        """How many values there are; infinitely many if they are not whole numbers."""
        return (self.high - self.low) // self.step + 1 if self.is_whole else math.inf

    def __contains__(self, value: float) -> bool:
        on_grid = not self.is_whole or (value - self.low) % self.step == 0
        return self.low <= value <= self.high and on_grid

    def text(self, value: float) -> str:
        """Return a value as it is written in a setting, rounded to what makes a difference."""
        if self.is_whole:
            return str(int(value))
        scale = min(value, self.high - self.low) if self.is_log else self.high - self.low
        rounded = round(value, _DIGITS - math.floor(math.log10(scale)))
        return repr(min(max(rounded, self.low), self.high))


def is_range(value: str) -> bool:
    """Say whether the value of a key that is a number is written as a range."""
    return ".." in value


def read_range(key: str, values: Sequence[str], is_whole: bool) -> Range:
    """Return the range that a key is given.

    Args:
        values: all that the key is given; they are one range, whose ends are values of the key.

    Raises:
        FalconerError: something stands beside the range, or it is not written as one.
    """
    shown = f"{key}={','.join(values)}"
    if len(values) > 1:
        raise FalconerError(f"{shown[:120]} is not one range.", f"Give {key} a single range, or a list of values.")
    low, _, rest = values[0].partition("..")
    high, colon, how = rest.partition(":")
    try:
        first, last = (int(low), int(high)) if is_whole else (float(low), float(high))
        step = int(how) if is_whole and colon and how != "log" else 1
    except ValueError:
        raise FalconerError(f"{shown[:120]} is not a range.", _WRITTEN) from None
    found = Range(first, last, is_whole, how == "log", step)
    if (colon and how != "log" and not is_whole) or step < 1:
        raise FalconerError(f"{shown[:120]} is not a range.", _WRITTEN)
    if not found.low < found.high:
        raise FalconerError(f"{shown}: the low end of a range is below its high end.", _WRITTEN)
    if found.is_log and found.low <= 0:
        raise FalconerError(f"{shown}: a logarithmic scale has no {low}.", f"Begin above 0, or write {low}..{high}.")
    if is_whole and (found.high - found.low) % step:
        reached = first + math.ceil((found.high - found.low) / step) * step
        raise FalconerError(
            f"{shown}: steps of {step} from {low} on don't reach {high}.",
            f"Write, for example, {low}..{reached}:{step}.",
        )
    return found


def ends_of(values: Sequence[str]) -> list[str]:
    """Return the two ends of a range as they are written, to be checked as values; none if something is beside it."""
    low, _, rest = values[0].partition("..")
    return [low, rest.partition(":")[0]] if len(values) == 1 else []
