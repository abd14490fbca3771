"""Where commands print, and how they name a number of things."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def stdout() -> "Console":
    """Return the console for results. Text is shown as it is: people's files may hold "[bold]" and ":smile:"."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def stderr() -> "Console":
    """Return the console for progress and notes, so that results can be piped on."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return "1 dialogue" or "2,344 dialogues"."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
