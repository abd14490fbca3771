"""The history of a row: how falconer and other programs write it, and who speaks where a file names no speakers."""

from collections.abc import Sequence
from typing import Any

from falconer.data.files.row import RowError, kind_of
from falconer.data.formats.rows import speaker
from falconer.evaluate.text.row import Row
from falconer.evaluate.text.row_fields import checked
from falconer.records import Turn

# How others call the two fields of a turn, beside our own names, which stand first.
_WHO, _WHAT = ("speaker", "role", "from"), ("text", "content", "value")
_HINT = (
    'Write "history": [{"speaker": "partner", "text": "..."}, {"speaker": "self", "text": "..."}, ...], or texts alone '
    "if the speakers alternate and the partner spoke last."
)


def history_of(row: Row) -> tuple[Turn, ...]:
    """Return the turns before a row's reply, oldest first; none where the field is missing, null or empty.

    A turn is an object of `speaker` ("self" replies, "partner" is who it talks to; also "user", "assistant" and the
    like) and `text`, or of `role` and `content`, or of `from` and `value`. Texts alone are taken as `alternating`.

    Raises:
        FalconerError: the field holds something else, or a speaker that is unknown.
    """
    for name, value in row.named(("history",)):
        if not (value or []):
            continue
        if not isinstance(value, list):
            raise row.bad(f"field {name!r} is {kind_of(value)}, not a list of turns", _HINT)
        if all(isinstance(item, str) for item in value):
            return alternating([checked(row, name, text) for text in value])
        return tuple(_turn(row, f"{name}[{i}]", item) for i, item in enumerate(value))
    return ()


def alternating(texts: Sequence[str]) -> tuple[Turn, ...]:
    """Return texts as turns of two speakers who alternate, the partner the last: it is the partner who is answered."""
    return tuple(Turn("partner" if (len(texts) - i) % 2 else "self", text) for i, text in enumerate(texts))


def written(history: Sequence[Turn]) -> list[dict[str, str]]:
    """Return a history as a predictions file holds it."""
    return [{"speaker": turn.speaker, "text": turn.text} for turn in history]


def _turn(row: Row, field: str, item: Any) -> Turn:
    if not isinstance(item, dict):
        raise row.bad(f"field '{field}' is {kind_of(item)}, but other turns are objects with a speaker", _HINT)
    who = next((item[key] for key in _WHO if key in item), None)
    text = next((item[key] for key in _WHAT if key in item), None)
    if who is None or not isinstance(text, str):
        raise row.bad(f"field '{field}' has no speaker or no text; its keys are {', '.join(map(repr, item))}", _HINT)
    try:
        return Turn(speaker(who, field), checked(row, field, text))
    except RowError as error:
        raise row.bad(f"field '{field}' {error.message}".rstrip("."), _HINT) from None
