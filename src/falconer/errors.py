"""`FalconerError`, raised for every mistake that a user can correct, with a hint on what to do."""

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from pydantic import ValidationError

Choice = TypeVar("Choice", bound=str)

# A value of a stranger's file, which a message quotes, may have a million characters.
_LONGEST = 2000


class FalconerError(Exception):
    """A mistake that the user can correct. The command line prints it in one line and exits with code 2.

    Args:
        message: what was given and why it can't be used; the middle of a very long one is left out.
        hint: what to type or change next; printed after the message.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        if len(message) > _LONGEST:
            left_out = len(message) - _LONGEST
            message = f"{message[: _LONGEST // 2]} [{left_out:,} characters] {message[-_LONGEST // 2 :]}"
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


def first_problem(error: "ValidationError") -> tuple[str, str]:
    """Return where the first problem that pydantic found is, as a path of keys ("" for the whole), and what it is."""
    first = error.errors()[0]
    return ".".join(map(str, first["loc"])), first["msg"]


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return "Did you mean 'x'?" for the closest allowed name, else the list of what is allowed."""
    names = sorted(allowed)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    return f"Did you mean '{close[0]}'?" if close else f"Allowed: {', '.join(names)}."


def one_of(option: str, given: str, allowed: Sequence[Choice]) -> Choice:
    """Return the value of a command's option after checking it.

    Raises:
        FalconerError: the value is not one of those allowed.
    """
    for choice in allowed:
        if given == choice:
            return choice
    raise FalconerError(f"{option} {given} is not allowed.", f"Allowed: {', '.join(allowed)}.")
