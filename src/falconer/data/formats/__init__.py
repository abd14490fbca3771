"""Which formats there are, and which function reads each; `signs.py` says how they are recognised."""

from collections.abc import Iterable
from typing import Any

from falconer.data.files.row import Row, RowError
from falconer.data.formats import (
    blended,
    conv_ai_2,
    convai2,
    cynaptics,
    dailydialog,
    dulemon,
    focus,
    history,
    instructions,
    locomo,
    messages,
    msc,
    parlai,
    persona_chat,
    soda,
    tables,
    votes,
    xpersona,
)
from falconer.data.formats.rows import Parsed, Quirks, is_blank
from falconer.data.formats.signs import SIGNS, named, row_format, text_format, unknown
from falconer.errors import FalconerError

__all__ = ["FORMATS", "detect", "is_row", "parse_rows", "parse_text", "row_format", "text_format"]

# What `format=` allows; transfertransfo stands for AlekseyKorshuk/persona-chat too.
FORMATS = ("auto", "convai2", *SIGNS)


def is_row(value: Any) -> bool:
    """Tell whether an object is one row, of a format that is read or that is refused by its name."""
    return row_format(value) is not None or (isinstance(value, dict) and _is_preference(value))


def detect(rows: Iterable[Row | RowError], path: str) -> str:
    """Return the format of the first row that has a known one.

    Raises:
        FalconerError: none of the first hundred rows has the fields of a known format.
    """
    first = [row for row in rows if not isinstance(row, RowError)][:100]
    _refuse_preferences([row for _, row in first if isinstance(row, dict)], path)
    for only_filled in (True, False):
        for _, row in first:
            if name := named(row, only_filled=only_filled):
                return name
    raise unknown(first[0][1] if first else None, path)


def _is_preference(row: dict[str, Any]) -> bool:
    return {"chosen", "rejected"} <= {str(key).strip().lower() for key, value in row.items() if not is_blank(value)}


def _refuse_preferences(rows: list[dict[str, Any]], path: str) -> None:
    """Raise a FalconerError for pairs of a better and a worse reply, beside which the messages are only the context."""
    if any(map(_is_preference, rows)):
        raise FalconerError(
            f"'{path}' contains preferences ('chosen' and 'rejected'), not dialogues.",
            "To train on the chosen replies, write each as {\"messages\": [...]} with 'chosen' as its last reply.",
        )


def parse_rows(rows: Iterable[Row | RowError], format: str, name: str, quirks: Quirks) -> Parsed:
    """Yield the dialogues and the bad rows of a format that consists of rows with named fields."""
    lowered = (_lower(row) for row in rows)
    match format:
        case "falconer":
            return messages.parse_ours(lowered, name, quirks)
        case "messages" | "sharegpt":
            return messages.parse_chat(lowered, name, "messages" if format == "messages" else "conversations", quirks)
        case "alpaca":
            return instructions.parse_alpaca(lowered, name, quirks)
        case "completion":
            return instructions.parse_completions(lowered, name, quirks)
        case "transfertransfo":
            return history.parse_entries(lowered, name, quirks)
        case "truecased":
            return history.parse_turns(lowered, name, quirks)
        case "cynaptics":
            return cynaptics.parse(lowered, name, quirks)
        case "xpersona":
            return xpersona.parse(lowered, name, quirks)
        case "parlai":
            return parlai.parse(lowered, name, quirks)
        case "conv_ai_2":
            return conv_ai_2.parse(lowered, name, quirks)
        case "blended":
            return blended.parse(lowered, name, quirks)
        case "msc":
            return msc.parse(lowered, name, quirks)
        case "locomo":
            return locomo.parse(lowered, name, quirks)
        case "dulemon":
            return dulemon.parse(lowered, name, quirks)
        case "focus":
            return focus.parse(lowered, name, quirks)
        case "soda":
            return soda.parse(lowered, name, quirks)
        case "dailydialog":
            return dailydialog.parse(lowered, name, quirks)
        case "votes":
            return votes.parse(lowered, name, quirks)
        case "synthetic":
            return tables.parse_synthetic(lowered, name, quirks)
        case _:
            return tables.parse_kaggle(lowered, name, quirks)


def parse_text(text: str, format: str, name: str, quirks: Quirks) -> Parsed:
    """Yield the dialogues and the bad rows of a format that is neither JSON nor a table with commas."""
    if format == "parlai":
        return parlai.parse_text(text, name, quirks)
    if format == "dailydialog":
        return dailydialog.parse_text(text, name, quirks)
    if persona_chat.is_persona_chat(text):
        return persona_chat.parse(text, name, quirks)
    return convai2.parse(text, name, quirks)


def _lower(item: Row | RowError) -> Row | RowError:
    # Copies of the tables differ in the case of their column names.
    if isinstance(item, RowError) or not isinstance(item[1], dict):
        return item
    return item[0], {str(key).strip().lower(): value for key, value in item[1].items()}
