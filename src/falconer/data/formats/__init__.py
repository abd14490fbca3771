"""Which formats there are, how each is recognised, and which function reads it."""

from collections.abc import Iterable
from typing import Any

from falconer.data.formats import convai2, cynaptics, history, instructions, messages, tables
from falconer.data.formats.rows import Parsed, Quirks, Row, RowError, is_blank
from falconer.errors import FalconerError

# What gives each format of rows away: a field that no other one has. The order decides where a row has two of them.
_SIGNS = {
    "falconer": "turns",
    "messages": "messages",
    "sharegpt": "conversations",
    "transfertransfo": "utterances",
    "truecased": "utterance_idx",
    "cynaptics": "persona_b",
    "synthetic": "best generated conversation",
    "kaggle": "chat",
    "alpaca": "instruction",
    "completion": "completion",
}

# Signs whose value is a list; in a cell of a table it is the text of one.
_LISTS = ("turns", "messages", "conversations", "utterances")

# What `format=` allows; transfertransfo stands for AlekseyKorshuk/persona-chat too.
FORMATS = ("auto", "convai2", *_SIGNS)


def row_format(row: Any) -> str | None:
    """Return the format of a row by its fields, None if it is none that we know."""
    return _named(row, only_filled=True) or _named(row, only_filled=False)


def is_row(value: Any) -> bool:
    """Tell whether an object is one row, of a format that is read or that is refused by its name."""
    return row_format(value) is not None or (isinstance(value, dict) and _is_preference(value))


def _named(row: Any, only_filled: bool) -> str | None:
    """Return the format that a row's fields name; those that hold something first, then all of them."""
    if not isinstance(row, dict):
        return None
    fields = {str(key).strip().lower(): value for key, value in row.items()}
    signs = (name for name, sign in _SIGNS.items() if sign in fields)
    return next((name for name in signs if not only_filled or _is_filled(_SIGNS[name], fields[_SIGNS[name]])), None)


def _is_filled(sign: str, value: Any) -> bool:
    """Tell whether a field can hold what it is the sign of: a count of turns and an empty cell hold no dialogue."""
    if sign in _LISTS:
        return isinstance(value, list) and bool(value) or isinstance(value, str) and value.strip().startswith("[")
    return not is_blank(value) and (sign == "utterance_idx" or not isinstance(value, (int, float)))


def detect(rows: Iterable[Row | RowError], path: str) -> str:
    """Return the format of the first row that has a known one.

    Raises:
        FalconerError: none of the first hundred rows has the fields of a known format.
    """
    first = [row for row in rows if not isinstance(row, RowError)][:100]
    _refuse_preferences([row for _, row in first if isinstance(row, dict)], path)
    for only_filled in (True, False):
        for _, row in first:
            if name := _named(row, only_filled):
                return name
    if first and isinstance(first[0][1], dict):
        found = f"Its rows hold {', '.join(map(repr, first[0][1]))}"
    elif first and isinstance(first[0][1], list):
        found = "Its rows are lists, not objects with named fields"
    else:
        found = "It has no rows of fields"
    signs = "; ".join(f"{name}: {sign!r}" for name, sign in _SIGNS.items())
    raise FalconerError(
        f"'{path}' has no known format. {found[:300]}.", f"Known by these fields: {signs}. Or name it with --format."
    )


def _is_preference(row: dict[str, Any]) -> bool:
    return {"chosen", "rejected"} <= {str(key).strip().lower() for key, value in row.items() if not is_blank(value)}


def _refuse_preferences(rows: list[dict[str, Any]], path: str) -> None:
    """Raise a FalconerError for pairs of a better and a worse reply, beside which the messages are only the context."""
    if any(map(_is_preference, rows)):
        raise FalconerError(
            f"'{path}' holds preferences ('chosen' and 'rejected'), not dialogues to learn.",
            "To learn the better replies, write each as {\"messages\": [...]} with 'chosen' as its last reply.",
        )


def parse_rows(rows: Iterable[Row | RowError], format: str, name: str, quirks: Quirks) -> Parsed:
    """Yield the dialogues and the bad rows of a format that consists of rows with named fields."""
    lowered = (_lower(row) for row in rows)
    if format == "falconer":
        return messages.parse_ours(lowered, name, quirks)
    if format in ("messages", "sharegpt"):
        return messages.parse_chat(lowered, name, _SIGNS[format], quirks)
    if format == "alpaca":
        return instructions.parse_alpaca(lowered, name)
    if format == "completion":
        return instructions.parse_completions(lowered, name, quirks)
    if format == "transfertransfo":
        return history.parse_entries(lowered, name, quirks)
    if format == "truecased":
        return history.parse_turns(lowered, name, quirks)
    if format == "cynaptics":
        return cynaptics.parse(lowered, name, quirks)
    if format == "synthetic":
        return tables.parse_synthetic(lowered, name, quirks)
    return tables.parse_kaggle(lowered, name, quirks)


def parse_text(text: str, name: str, quirks: Quirks) -> Parsed:
    """Yield the dialogues and the bad rows of the one format that is neither JSON nor a table."""
    return convai2.parse(text, name, quirks)


def _lower(item: Row | RowError) -> Row | RowError:
    # Copies of the tables differ in the case of their column names.
    if isinstance(item, RowError) or not isinstance(item[1], dict):
        return item
    return item[0], {str(key).strip().lower(): value for key, value in item[1].items()}
