"""The fields of a row: the names that other programs give them, and checks of their values."""

import math
import re
from dataclasses import fields
from typing import Any, TypeVar

from falconer.data.files.cells import NotAList, list_in
from falconer.data.files.row import kind_of, shown
from falconer.errors import FalconerError
from falconer.evaluate.text.row import Row
from falconer.records import Likelihood, Ranks

# Names under which other programs write the two texts, as `field_name` gives them.
PREDICTION_KEYS = (
    "prediction", "hypothesis", "generated", "generated_text", "response", "output", "completion", "reply",
    "predictions", "pred", "preds", "predicted", "hypotheses", "hyp", "hyps", "generated_response", "generation",
    "model_output", "model_response", "system_output", "prediction_text", "predicted_text", "predicted_response",
)  # fmt: skip
REFERENCE_KEYS = (
    "reference", "references", "gold", "target", "label", "labels", "answer", "ground_truth",
    "ref", "refs", "golds", "targets", "answers", "ground_truths", "gold_reply", "gold_response", "gold_answer",
    "reference_text", "reference_response", "target_text", "target_response", "expected", "expected_output",
    "expected_response",
)  # fmt: skip
# What a file of one text a row may call it; which of the two it is, --reference tells.
TEXT_KEYS = ("text", "content", "sentence", "utterance")
ID_KEYS = ("id", "idx", "index", "example_id")
DIALOGUE_KEYS = ("dialogue_id", "dialog_id", "conversation_id")
Measured = TypeVar("Measured", Likelihood, Ranks)

_NUMBERED = re.compile(rf"(?:{'|'.join(REFERENCE_KEYS)})_?(\d{{1,4}})")
_WRITE_TEXT = 'Write text; an empty reply is "".'


def prediction_of(row: Row, names: tuple[str, ...] = PREDICTION_KEYS) -> str:
    """Return the reply of a row.

    Raises:
        FalconerError: no such field, one that holds no text, or two that hold different texts.
    """
    given = row.named(names)
    if not given:
        problem = f"the field '{names[0]}' is missing; the row has {field_names(row)}"
        raise row.bad(problem, f"Name it {name_for(names)}.")
    # A list of one text is that text; of a class number beside a text, the text is meant.
    found = {name: texts[0] for name, value in given if len(texts := _list_of_texts(value) or ()) == 1}
    if not found:
        name, value = given[0]
        what = f"a list of {len(value)}" if isinstance(value, list) else kind_of(value)
        raise row.bad(f"field {name!r} is {what}", _WRITE_TEXT)
    if len(set(found.values())) > 1:
        raise _ambiguous(row, "reply", found)
    (name, text), *_ = found.items()
    return checked(row, name, text)


def references_of(row: Row) -> tuple[str, ...]:
    """Return the gold replies of a row, the first one first; none if it has no such field.

    Raises:
        FalconerError: a field that holds no text, no text at all, or two fields that hold different texts.
    """
    given = row.named(REFERENCE_KEYS)
    lists = {name: texts for name, value in given if (texts := _list_of_texts(value))}
    numbered = _numbered_references(row)
    if not lists and not numbered:
        if not given:
            return ()
        name, value = given[0]
        raise row.bad(
            f"field {name!r} is {'an empty list' if value == [] else kind_of(value)}",
            "Write text, or a list of texts.",
        )
    longest = max(lists.values(), key=len, default=())
    if any(text not in longest for texts in lists.values() for text in texts):
        raise _ambiguous(row, "gold reply", {name: texts[0] for name, texts in lists.items()})
    # The field that comes first has the first word, and a list beside it the others.
    first = next(iter(lists.values()), ())
    found = [*first, *(text for text in longest if text not in first), *numbered, *texts_of(row, "other_references")]
    kept = tuple(checked(row, given[0][0] if given else "reference", text) for text in found if text.strip())
    if not kept:
        raise row.bad("the reference is empty", "Leave out rows that have no gold reply.")
    return kept


def gold_of(row: Row) -> tuple[str, ...]:
    """Return the gold replies of a row of a --reference file, which may call them its text, or its prediction."""
    found = references_of(row)
    if not found:
        texts = row.named(PREDICTION_KEYS)
        found = (prediction_of(row, PREDICTION_KEYS if texts else ("reference", *REFERENCE_KEYS[1:], *TEXT_KEYS)),)
    if not found[0].strip():
        raise row.bad("the reference is empty", "Leave out rows that have no gold reply.")
    return found


def texts_of(row: Row, key: str) -> tuple[str, ...]:
    """Return a list of texts; none where the field is missing, null or empty."""
    for name, value in row.named((key,)):
        if not (value or []):
            continue
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise row.bad(f"field {name!r} is not a list of texts", f'Write "{key}": ["...", "..."].')
        return tuple(checked(row, name, item) for item in value)
    return ()


def dialogue_of(row: Row) -> str | None:
    """Return the id of the dialogue that a row belongs to, None if it does not say."""
    return next((_id(row, name, value) for name, value in row.named(DIALOGUE_KEYS) if value is not None), None)


def row_id(row: Row) -> str | None:
    """Return what tells a row from all others, None if it does not say."""
    values = (_whole(value) for _, value in row.named(ID_KEYS))
    return next((str(value) for value in values if isinstance(value, str | int)), None)


def turn_of(row: Row) -> int | None:
    """Return the number of a row's turn, None if it does not say."""
    for name, value in row.named(("turn",)):
        if value is None:
            continue
        value = _whole(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise row.bad(f"field {name!r} is {kind_of(value)}", "Write a whole number, or leave it out.")
        return value
    return None


def ended_of(row: Row) -> bool | None:
    """Return whether the model ended the reply itself, None if the row does not say."""
    for name, value in row.named(("ended",)):
        if not isinstance(value, bool | None):
            raise row.bad(f"field {name!r} is {kind_of(value)}", "Write true or false, or leave it out.")
        return value
    return None


def measured_of(row: Row, key: str, record: type[Measured]) -> Measured | None:
    """Return what a model has measured, an object with the record's fields, all of them real numbers."""
    value = next((value for _, value in row.named((key,))), None)
    if value is None:
        return None
    names = [field.name for field in fields(record)]
    if not isinstance(value, dict) or set(value) != set(names):
        raise row.bad(f"field '{key}' is not an object with {', '.join(names)}", "Leave it out.")
    for name, item in value.items():
        if isinstance(item, bool) or not isinstance(item, int | float):
            raise row.bad(f"field '{key}.{name}' is {kind_of(item)}", "Write a number.")
        if not math.isfinite(item):
            hint = "The model gave no probability; evaluate again with model.dtype=fp32."
            raise row.bad(f"field '{key}.{name}' is {item}, which is not a finite number", hint)
    return record(**value)


def from_cell(name: str, cell: str) -> Any:
    """Return a table's cell as the value that JSON would have under this name: lists and numbers stand in it as text.

    Args:
        name: as `field_name` gives it.
    """
    if name in ("persona", "history"):
        listed = _list_in(cell, str | dict if name == "history" else str)
        return [line.strip() for line in cell.splitlines() if line.strip()] if listed is None else listed
    if name in PREDICTION_KEYS:
        # Only one text in brackets is taken out of them: more may be what the model wrote.
        listed = _list_in(cell) or []
        return listed[0] if len(listed) == 1 else cell
    if name in REFERENCE_KEYS or name == "other_references":
        listed = _list_in(cell)
        return cell if listed is None else listed
    if name in (*ID_KEYS, *DIALOGUE_KEYS):
        return cell.strip() or None
    if name == "turn":
        # pandas writes the whole numbers of a column with gaps as 3.0.
        number = re.fullmatch(r"(-?\d{1,18})(\.0)?", cell.strip())
        return int(number[1]) if number else cell.strip() or None
    if name == "ended":
        return {"true": True, "false": False}.get(cell.strip().lower())
    return None if name in ("likelihood", "ranks") else cell


def says_gold(row: Row) -> bool:
    """Tell whether a row holds a gold reply itself; an empty one is none."""
    texts = [text for _, value in row.named(REFERENCE_KEYS) for text in _list_of_texts(value) or ()]
    return any(text.strip() for text in (*texts, *_numbered_references(row)))


def field_names(row: Row) -> str:
    """Return the names of a row's fields for a message."""
    names = [shown(written) for _, written, _ in row.fields]
    return ", ".join([*names[:12], *(["..."] if len(names) > 12 else [])]) or "no field"


def name_for(names: tuple[str, ...]) -> str:
    """Return how a field may be called, for a message."""
    return f"{names[0]} (or {', '.join(names[1:8])}{', ...' if len(names) > 8 else ''})"


def is_known(name: str) -> bool:
    """Tell whether a column of this name holds a reply or a gold reply."""
    return name in PREDICTION_KEYS or name in REFERENCE_KEYS or bool(_NUMBERED.fullmatch(name))


def _numbered_references(row: Row) -> list[str]:
    """Return the texts of `reference_1`, `ref2`, ... by their numbers; one that is empty or null is no reference."""
    found = []
    for name, written, value in row.fields:
        if (match := _NUMBERED.fullmatch(name)) and value is not None:
            if not isinstance(value, str):
                raise row.bad(f"field {written!r} is {kind_of(value)}", "Write text.")
            if value.strip():
                found.append((int(match[1]), value))
    return [text for _, text in sorted(found, key=lambda pair: pair[0])]


def _list_of_texts(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        return None
    # A null in a list is what a table with gaps becomes: no text.
    texts = [item for item in value if item is not None]
    return tuple(texts) if all(isinstance(item, str) for item in texts) else None


def _list_in(cell: str, kind: Any = str) -> list[Any] | None:
    """Return the list of texts (or of another kind of item) that a cell holds, None if it holds no such list."""
    cell = cell.strip()
    if not (cell.startswith("[") and cell.endswith("]")):
        return None
    try:
        value = list_in(cell)
    except NotAList:
        return None
    return value if all(isinstance(item, kind) for item in value) else None


def _whole(value: Any) -> Any:
    """Return 3.0 as 3: pandas writes the whole numbers of a column with gaps so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _id(row: Row, name: str, value: Any) -> str:
    value = _whole(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise row.bad(f"field {name!r} is {kind_of(value)}", "Write text or a number.")
    return checked(row, name, str(value))


def checked(row: Row, name: str, text: str) -> str:
    """Return the text of a field; a FalconerError if it is no Unicode."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            problem = f"field {name!r} contains half of a surrogate pair, which is not a character"
            raise row.bad(problem, "Remove the \\ud8.. escape, or write the text as UTF-8.") from None
    return text


def _ambiguous(row: Row, what: str, found: dict[str, str]) -> FalconerError:
    values = " and ".join(f"{name!r} holds {shown(text)}" for name, text in found.items())
    problem = f"more than one field may be the {what}: {values}"
    return row.bad(problem, "Rename or remove the others.")
