"""Turns of one speaker that stand in a row become one, whatever format they come from."""

from collections.abc import Iterable
from dataclasses import replace

from falconer.data.formats.rows import Quirks
from falconer.records import Turn

MERGED = "consecutive turns of one speaker merged"


def merged(turns: Iterable[Turn], quirks: Quirks) -> tuple[Turn, ...]:
    """Return turns that alternate; each turn that joined the one before it is counted."""
    kept: list[Turn] = []
    for turn in turns:
        if kept and kept[-1].speaker == turn.speaker:
            quirks[MERGED] += 1
            kept[-1] = _as_one(kept[-1], turn)
        else:
            kept.append(turn)
    return tuple(kept)


def _as_one(one: Turn, two: Turn) -> Turn:
    """Return two turns of one speaker as one, learned if both are; gold is still one of the candidates.

    The candidates are those of the second turn, each behind the first's text; those of the first, each before the
    second's text, where only the first has any.
    """
    gap = "\n" if "\n" in one.text or "\n" in two.text else " "
    if two.candidates:
        candidates = tuple(f"{one.text}{gap}{text}" for text in two.candidates)
    else:
        candidates = tuple(f"{text}{gap}{two.text}" for text in one.candidates)
    return replace(
        one, text=f"{one.text}{gap}{two.text}", candidates=candidates, is_learned=one.is_learned and two.is_learned
    )
