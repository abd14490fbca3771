"""How each format gives itself away: rows by fields that only it has, text by its first lines; and what is refused."""

import difflib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from falconer.data.formats import convai2, dailydialog, parlai, persona_chat
from falconer.data.formats.rows import is_blank, is_columns
from falconer.errors import FalconerError

# A format's rows hold all fields of one of its signs, each with a value of that kind. The order decides where a row has
# the signs of two; what a field holds tells formats apart that name it alike.
_ANY, _TEXT, _OBJECT = "anything", "no number", "an object"
_LIST, _TEXTS, _LISTS, _OBJECTS = "a list", "texts", "lists", "objects"
Sign = Mapping[str, str]


def _frozen(signs: dict[str, tuple[dict[str, str], ...]]) -> Mapping[str, tuple[Sign, ...]]:
    return MappingProxyType({name: tuple(map(MappingProxyType, some)) for name, some in signs.items()})


SIGNS: Mapping[str, tuple[Sign, ...]] = _frozen(
    {
        "falconer": ({"turns": _LIST},),
        "messages": ({"messages": _LIST},),
        "sharegpt": ({"conversations": _LIST}, {"conversation": _OBJECTS}),
        "focus": ({"dialogid": _ANY, "utterance": _OBJECTS},),
        "dulemon": ({"bot_persona": _LIST, "conversation": _LIST}, {"p2_persona": _LIST, "conversation": _LIST}),
        "conv_ai_2": (
            {"bot_profile": _LIST, "dialog": _LIST},
            {"dialog_id": _ANY, "eval_score": _ANY, "dialog": _LIST},
        ),
        "blended": (
            {"free_turker_utterance": _ANY, "guided_turker_utterance": _ANY, "dialog": _LIST},
            {"free_messages": _LIST, "guided_messages": _LIST},
        ),
        "msc": (
            {"personas": _ANY, "dialog": _LIST},
            {"init_personas": _ANY, "dialog": _OBJECTS},
            {"init_personachat": _ANY, "dialog": _OBJECTS},
            {"persona1": _ANY, "persona2": _ANY, "dialogue": _TEXTS},
        ),
        "locomo": ({"sample_id": _ANY, "conversation": _OBJECT}, {"speaker_a": _ANY, "speaker_b": _ANY}),
        "soda": ({"speakers": _LIST, "dialogue": _TEXTS},),
        "transfertransfo": ({"utterances": _OBJECTS}, {"personality": _ANY, "utterances": _LIST}),
        "truecased": ({"utterance_idx": _ANY, "history": _ANY},),
        "cynaptics": ({"persona_b": _TEXT},),
        "xpersona": ({"persona": _ANY, "dialogue": _LISTS}, {"meta": _ANY, "dialogue": _LISTS}),
        "dailydialog": ({"dialog": _TEXTS}, {"utterances": _TEXTS}, {"dialogue": _OBJECTS, "topic": _ANY}),
        "parlai": ({"dialog": _LISTS}, {"dialog": _OBJECTS}),
        "synthetic": ({"best generated conversation": _TEXT}, {"user 1 persona": _ANY, "conversation": _TEXT}),
        "kaggle": ({"chat": _TEXT},),
        "alpaca": ({"instruction": _TEXT},),
        "completion": ({"completion": _TEXT},),
        "votes": ({"replies": _OBJECT, "vote": _TEXT},),
    }
)
# Formats that are, or may be, text rather than rows.
TEXT_FORMATS = ("convai2", "parlai", "dailydialog")

# Corpora that are no dialogues: the fields of their rows, and what to do.
_REFUSED = (
    (
        frozenset({"persona", "query", "response"}),
        "a table like those of LMEDR or PersonaMinEdit, with a persona, one message and one reply per row",
        "Such files contain a model's replies, or single exchanges without their dialogue. To score replies: falconer "
        "score. To train: take the ConvAI2 files that they were made from, or write rows of 'persona' and 'dialogue'.",
    ),
    (
        frozenset({"profile", "response"}),
        "a table like KvPI's, with a profile, a response and whether the two agree",
        "It is made for classifying single responses; some contradict their profile. To train on the others, write "
        "rows of 'persona' and 'dialogue'.",
    ),
)
# A dict as Python writes it, of where somebody lives and the like, on a line of cells or of parts with a separator.
_KVPI = re.compile(
    r"[^\n]*\{\s*['\"]?(?:constellation|loc|gender)['\"]?\s*:[^\n]*\}[^\n]*(?:\t|<SEP>|\[SEP\])", re.IGNORECASE
)
# DailyDialog's acts, emotions and topics, a conversation a line.
_NUMBERS = re.compile(r"(?:\d[ \d]*\r?\n){1,20}(?:\d|\Z)", re.ASCII)


def row_format(row: Any) -> str | None:
    """Return the format of a row by its fields, None if it is none that we know."""
    return named(row, only_filled=True) or named(row, only_filled=False)


def named(row: Any, *, only_filled: bool) -> str | None:
    """Return the format that a row's fields name, None if it is none that we know.

    Args:
        row: a row.
        only_filled: the fields have to hold what the format has there. Without it, their names alone count: a row
            whose field holds something else is a bad row of that format, which says more than an unknown one.
    """
    if not isinstance(row, dict):
        return None
    fields = {str(key).strip().lower(): value for key, value in row.items()}
    for name, signs in SIGNS.items():
        for sign in signs:
            if all(field in fields and (not only_filled or _is_kind(fields[field], sign[field])) for field in sign):
                return name
    return None


def _is_kind(value: Any, kind: str) -> bool:
    if is_blank(value) or kind == _ANY:
        return not is_blank(value)
    if kind == _TEXT:
        return not isinstance(value, (int, float))
    if isinstance(value, str):
        # A cell of a CSV holds a list of texts as text.
        return kind in (_LIST, _TEXTS) and value.strip().startswith("[")
    if is_columns(value):
        return kind in (_LIST, _OBJECTS)
    if kind == _OBJECT or not isinstance(value, (list, tuple)):
        return kind == _OBJECT and isinstance(value, dict)
    if kind == _TEXTS:
        return isinstance(value[0], str)
    return kind == _LIST or isinstance(value[0], (list, tuple) if kind == _LISTS else dict)


def text_format(text: str, format: str, path: str) -> str | None:
    """Return the format of a text that is neither JSON nor a table with commas, None if it is one of these.

    Args:
        text: the content.
        format: the format that was asked for, or "auto".
        path: for the error.

    Raises:
        FalconerError: a corpus that is known to hold no dialogues.
    """
    is_json = text.lstrip()[:1] in ("{", "[")
    if format != "auto":
        return format if format == "convai2" or (format in TEXT_FORMATS and not is_json) else None
    if _KVPI.match(text.lstrip()[:1000]):
        _, what, fix = _REFUSED[1]
        raise FalconerError(f"'{path}' is {what}.", fix)
    if is_json:
        return None
    if parlai.is_parlai(text):
        return "parlai"
    if dailydialog.is_dailydialog(text):
        return "dailydialog"
    if _NUMBERS.match(text):
        raise FalconerError(
            f"'{path}' contains only numbers, like DailyDialog's files of acts, emotions and topics.",
            "Give the file with the text: dialogues_text.txt, or dialogues_train.txt.",
        )
    if persona_chat.is_persona_chat(text) or convai2.is_convai2(text):
        return "convai2"
    header = [cell.strip() for cell in text.lstrip("\r\n").split("\n", 1)[0].split("\t")]
    if len(header) > 1 and all(re.fullmatch(r"[\w .-]{1,40}", cell) for cell in header):
        _refuse_fields(header, path)
    return None


def unknown(row: Any, path: str) -> FalconerError:
    """Return the error for rows of no known format.

    Args:
        row: the first one, None if there is none.
        path: the file.

    Raises:
        FalconerError: the rows of a corpus that is known to hold no dialogues.
    """
    fields = [str(field) for field in row] if isinstance(row, dict) else []
    if fields:
        _refuse_fields(fields, path)
        found = f"Its rows hold {', '.join(map(repr, fields))}"[:300]
    elif isinstance(row, list):
        found = "Its rows are lists, not objects with named fields"
    else:
        found = "It has no rows of fields"
    return FalconerError(
        f"'{path}' is not in a known format. {found}.{_nearest_format(fields)}",
        "docs/data.md shows a row of each format. If the file is in one of them, give its name: --format NAME, or "
        "data.format=NAME for train; else convert it.",
    )


def _refuse_fields(fields: list[str], path: str) -> None:
    lowered = {field.lower() for field in fields}
    for signs, what, fix in _REFUSED:
        if signs <= lowered:
            raise FalconerError(f"'{path}' has the columns {', '.join(map(repr, fields))}: {what}.", fix)


def _nearest_format(fields: list[str]) -> str:
    """Return a sentence about the format whose fields are most like these, "" if none is."""
    lowered = [field.strip().lower() for field in fields]
    best, missing, most = "", [""], 0.0
    for name, signs in SIGNS.items():
        for sign in signs:
            lacking = [field for field in sign if field not in lowered]
            if len(lacking) == len(sign) > 1:
                continue
            # A field that is only misspelled counts for more than one that isn't there.
            num_close = sum(bool(difflib.get_close_matches(field, lowered, n=1, cutoff=0.87)) for field in lacking)
            share = (len(sign) - len(lacking) + 0.6 * num_close) / len(sign)
            if share > most:
                best, missing, most = name, lacking, share
    if most < 0.5:
        return ""
    names, (noun, verb) = ", ".join(map(repr, missing)), ("field", "is") if len(missing) == 1 else ("fields", "are")
    return f' The closest format is "{best}", but the {noun} {names} {verb} missing.'
