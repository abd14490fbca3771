r"""ParlAI's own two formats.

Text (`parlai convert_data_to_parlai_format`): a line is an exchange, `text:...<TAB>labels:...`, with
`label_candidates:a|b|c` and further fields; `episode_done:True` ends the dialogue. `\n`, `\t`, `\|` and `__PIPE__` are
escapes. Persona lines stand at the head of the first text. The label is the reply of "you"; of several
labels, the first is the gold reply and the others are left out and counted. BlendedSkillTalk's lines (they hold
`context_dataset`) bring the two opening turns in their first text, behind the persona and a topic.

Conversations (`{"dialog": [[{"id", "text"}, ...], ...], "context": [...]}`), as self-chats and crowd-sourcing write
them: the one whose id says bot or model learns, else the second to speak. A context is a persona in the same labelled
lines; of two contexts, the first is that of the first speaker.

A log of what people typed to a bot, in which every label is `__ok__`, holds no replies: its rows are bad.
"""

import re
from collections.abc import Iterable
from typing import Any

from falconer.data.files.row import Row, RowError
from falconer.data.formats.rows import (
    SPEAKERS,
    Parsed,
    Quirks,
    as_dict,
    as_list,
    check_candidates,
    check_replies,
    each,
    get,
    lines,
)
from falconer.data.formats.spoken import Draft, check_no_label, persona_line, turn
from falconer.records import Dialogue, Turn

_FIRST_LINE = re.compile(
    r"(?:[\w-]+:[^\t\n]*\t)*text:[^\n]*\t(?:labels|eval_labels|label_candidates|episode_done):", re.ASCII
)
_BAR = re.compile(r"(?<!\\)\|")
_LOG_LABEL = "__ok__"


def is_parlai(text: str) -> bool:
    """Tell whether a text begins with a line of fields, among them `text:` and what ParlAI puts behind it."""
    return bool(_FIRST_LINE.match(text.lstrip("\r\n")))


def parse_text(text: str, name: str, quirks: Quirks) -> Parsed:
    """Yield the dialogues of a file, or a RowError for each one with a line that can't be read."""
    draft: Draft | None = None
    count = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        draft = draft or Draft(number)
        fields: dict[str, str] = {}
        try:
            fields = _fields(line.rstrip("\r"), quirks)
            if not draft.is_broken:
                _read_line(draft, fields, quirks)
        except RowError as error:
            if not draft.is_broken:
                count += 1
                error.line = number
                yield error
            draft.is_broken = True
        if _is_done(fields):
            if not draft.is_broken:
                count += 1
                yield _finish(draft, f"{name}-{count:05d}")
            draft = None
    if draft and not draft.is_broken:
        yield _finish(draft, f"{name}-{count + 1:05d}")


def _is_done(fields: dict[str, str]) -> bool:
    return fields.get("episode_done", "").strip().lower() in ("true", "1", "yes")


def _fields(line: str, quirks: Quirks) -> dict[str, str]:
    fields: dict[str, str] = {}
    for column in line.split("\t"):
        key, colon, value = column.partition(":")
        if not colon:
            if column.strip():
                raise RowError(
                    "line",
                    f"contains {column[:30]!r}, which is not 'name:value'. Write a tab as \\t, a line break as \\n.",
                )
            continue
        fields[key.strip()] = value
    return fields


def _unescape(value: str) -> str:
    for mark, character in (("\\n", "\n"), ("\\t", "\t"), ("__PIPE__", "|"), ("\\|", "|")):
        value = value.replace(mark, character)
    return value.strip()


def _choices(value: str) -> list[str]:
    return [text for text in map(_unescape, _BAR.split(value)) if text]


def _read_line(draft: Draft, fields: dict[str, str], quirks: Quirks) -> None:
    if "text" not in fields:
        raise RowError("text", f"is missing. The line has {', '.join(map(repr, fields))}.")
    labels = _choices(fields.get("labels", fields.get("eval_labels", "")))
    if _LOG_LABEL in labels:
        raise RowError(
            "labels",
            f"are {_LOG_LABEL}: this is a log of the messages to a bot, without its replies. "
            "Take the file of the conversations, with the bot's turns.",
        )
    for told in lines(_unescape(fields.get("bot_persona", ""))):
        _add_persona(draft, persona_line(told) or ("self", told))
    spoken = _without_persona(draft, _unescape(fields["text"]))
    if "context_dataset" in fields and not draft.turns and len(spoken) > 2:
        quirks["topic or situation left out"] += len(spoken) > 3
        opening = spoken[-3:-1]
        draft.turns += turn("partner", opening[0], "text", quirks) + turn("self", opening[1], "text", quirks)
        spoken = spoken[-1:]
    if spoken:
        draft.turns += turn("partner", "\n".join(spoken), "text", quirks)
    if not labels:
        quirks["message without a reply"] += 1
        return
    quirks["further labels left out"] += len(labels) - 1
    for reply in turn("self", labels[0], "labels", quirks):
        candidates = tuple(_choices(fields.get("label_candidates", "")))
        draft.turns.append(check_candidates(Turn("self", reply.text, candidates), "label_candidates"))


def _add_persona(draft: Draft, told: tuple[str, str]) -> None:
    whose, sentence = told
    persona = draft.persona if whose == "self" else draft.partner_persona
    # Some files repeat the persona before each message.
    if sentence and sentence not in persona:
        persona.append(sentence)


def _without_persona(draft: Draft, text: str) -> list[str]:
    """Put the persona lines at the head of a text where they belong, and return the other lines."""
    rest = text.split("\n")
    while rest and (not rest[0].strip() or persona_line(rest[0])):
        if told := persona_line(rest.pop(0)):
            _add_persona(draft, told)
    if len(rest) > 1:
        check_no_label(rest[0], "text", is_opening=not draft.turns)
    return rest


def _finish(draft: Draft, dialogue_id: str) -> Dialogue | RowError:
    try:
        turns = check_replies(draft.turns, "labels")
    except RowError as error:
        error.line = draft.first_line
        return error
    return Dialogue(dialogue_id, tuple(draft.persona), turns, tuple(draft.partner_persona))


def parse(rows: Iterable[Row | RowError], name: str, quirks: Quirks) -> Parsed:
    """Yield one Dialogue for each row of ParlAI's conversations."""

    def one(line: int, row: dict[str, Any]) -> list[Dialogue]:
        acts: list[tuple[str, Any, str]] = []
        for i, exchange in enumerate(as_list(get(row, "dialog"), "dialog")):
            # Some logs are a list of acts, without the exchanges.
            is_act = isinstance(exchange, dict)
            for k, item in enumerate([exchange] if is_act else as_list(exchange, f"dialog[{i}]")):
                where = f"dialog[{i}]." if is_act else f"dialog[{i}][{k}]."
                act = as_dict(item, where[:-1])
                acts.append((str(get(act, "id", where)).strip(), get(act, "text", where), where + "text"))
        learner = _learner([who for who, _, _ in acts])
        draft = Draft(line)
        _read_context(draft, row.get("context"))
        for who, text, where in acts:
            if who != learner and isinstance(text, str):
                text = "\n".join(_without_persona(draft, text))
                if not text.strip():
                    continue  # it was the persona and nothing else
            draft.turns += turn("self" if who == learner else "partner", text, where, quirks)
        turns = check_replies(draft.turns, "dialog")
        return [Dialogue(f"{name}-{line:05d}", tuple(draft.persona), turns, tuple(draft.partner_persona))]

    return each(rows, one)


def _learner(ids: list[str]) -> str:
    people = list(dict.fromkeys(ids))
    if len(people) > 2:
        raise RowError(
            "dialog", f"has {len(people)} speakers, {', '.join(map(repr, people))[:80]}; a dialogue has two."
        )
    roles = [SPEAKERS.get(re.sub(r"[\W_]*\d*$", "", who).lower()) for who in people]
    if roles.count("self") == 1:
        return people[roles.index("self")]
    return people[-1] if people else ""


def _read_context(draft: Draft, value: Any) -> None:
    """Read the contexts: labelled lines say whose they are, unless there is one for each speaker."""
    items = [] if value is None else value if isinstance(value, list) else [value]
    texts = [
        str(get(item, "text", f"context[{i}].")) if isinstance(item, dict) else str(item)
        for i, item in enumerate(items)
    ]
    for i, text in enumerate(texts):
        of_first = len(texts) == 2 and i == 0
        for line in lines(text):
            whose, sentence = persona_line(line) or ("self", line)
            _add_persona(draft, ("partner" if (whose == "self") == of_first else "self", sentence))
