"""Tables with a conversation in a cell: Kaggle's personality.csv and Google's Synthetic-Persona-Chat.

Known quirks of the real files are handled and counted, not reported as bad rows:

- Kaggle (`Persona`, `chat`): persona sentences run together; turns are lines without speakers, of which the second,
  fourth, ... are the persona owner's; rows with an empty cell are left out.
- Synthetic-Persona-Chat (`user 1 personas`, `user 2 personas`, `Best Generated Conversation`): both speakers own a
  persona, so a row yields two dialogues, ids ending in /1 and /2. Labels vary ("User 1:", "* User 1:", "**User 2:**",
  or two names throughout); stage directions (`stage.py`) are dropped, as are lines of a third speaker, and a profile of
  a speaker up to the next labelled line; any other line without a label continues the turn before it; consecutive turns
  of one speaker become one, so that the sides alternate. Conversations that are empty or that nobody can attribute are
  left out. Placeholders like "[User 1's name]" stay as they are.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from falconer.data.files.row import Row, RowError
from falconer.data.formats.merging import merged
from falconer.data.formats.rows import Parsed, Quirks, check_replies, each, get, lines, sentences
from falconer.data.formats.stage import introduced_names, is_direction, is_profile, without_directions
from falconer.records import Dialogue, Turn

# The end of a sentence: not after "a.m" and the like, nor after a title.
_SENTENCE_END = re.compile(r"(?<=[.!?])(?<![a-z]\.[a-z]\.)(?<!\bdr\.)(?<!\bmr\.)(?<!\bms\.)(?<!\bmrs\.)(?<!\bst\.)\s+")

_USER = re.compile(
    r"[\s*_#>\-\[(]*user\s*#?([12])[\s*_\])]*(?:\([^)\n]{1,40}\)|\[[^\]\n]{1,40}\])?[\s*_]*:[\s*_]*", re.IGNORECASE
)
_NAME = re.compile(r"[\s*_]*([A-Z][\w.'-]*(?: [A-Z][\w.'-]*)?)[\s*_]*:[\s*_]+(?=\S)")
# A list as Python, numpy or JSON writes it; a text may begin with a bracket, too.
_LIST = re.compile(r"""\s*\[\s*["'].*["']\s*\]\s*""", re.DOTALL)
_PLACEHOLDER = re.compile(r"[\[(](?:user ?[12]\b[^\])]*|(?:your |user ?)?name)[\])]", re.IGNORECASE)


def parse_kaggle(rows: Iterable[Row | RowError], name: str, quirks: Quirks) -> Parsed:
    """Yield one Dialogue for each row of a Kaggle personality table."""

    def one(line: int, row: dict[str, Any]) -> list[Dialogue]:
        persona, chat = lines(_cell(row, "persona")), lines(_cell(row, "chat"))
        if not (persona and chat):
            quirks["empty row left out"] += 1
            return []
        if len(chat) == 1:
            raise RowError(
                "chat",
                "has only one line; expected one turn per line. Put a cell with line breaks in quotes.",
            )
        turns = [Turn("self" if i % 2 else "partner", text) for i, text in enumerate(chat)]
        sentences_run_together = (sentence for text in persona for sentence in _SENTENCE_END.split(text))
        return [Dialogue(f"{name}-{line:05d}", tuple(sentences_run_together), check_replies(turns, "chat"))]

    return each(rows, one)


def parse_synthetic(rows: Iterable[Row | RowError], name: str, quirks: Quirks) -> Parsed:
    """Yield two Dialogues, one from each side, for each conversation of Synthetic-Persona-Chat."""

    def one(line: int, row: dict[str, Any]) -> list[Dialogue]:
        personas = {
            "1": lines(_cell(row, "user 1 personas", "user 1 persona")),
            "2": lines(_cell(row, "user 2 personas", "user 2 persona")),
        }
        spoken = _attribute(lines(_cell(row, "best generated conversation", "conversation")), quirks)
        mirrored = tuple(replace(turn, speaker="partner" if turn.speaker == "self" else "self") for turn in spoken)
        sides = (
            Dialogue(f"{name}-{line:05d}/{me}", personas[me], turns, personas[other])
            for me, other, turns in (("1", "2", spoken), ("2", "1", mirrored))
        )
        dialogues = [dialogue for dialogue in sides if dialogue.replies]
        if not dialogues:
            quirks["empty conversation left out"] += 1
        return dialogues

    return each(rows, one)


def _cell(row: dict[str, Any], *keys: str) -> str:
    """Return the text of the first column that is there; a list, or a cell that holds one, has an entry a line.

    An empty cell is "" (CSV) or None (parquet), a column that isn't there is a RowError.
    """
    key = next((key for key in keys if key in row), keys[0])
    value = "" if key in row and row[key] is None else get(row, key)
    if isinstance(value, str) and not _LIST.fullmatch(value):
        return value
    return "\n".join(sentences(value, key))


def _attribute(text_lines: tuple[str, ...], quirks: Quirks) -> tuple[Turn, ...]:
    """Return the turns of a conversation from the side of user 1."""
    names = _speaker_names(text_lines)
    people = introduced_names(text_lines) | frozenset(names)
    turns: list[tuple[str, str]] = []
    opening: list[str] = []  # lines before the first label
    is_in_profile = False
    for line, following in zip_longest(text_lines, text_lines[1:]):
        speaker, text = _label(line, names)
        is_in_profile = is_profile(line) or (is_in_profile and speaker in ("", "other"))
        if is_in_profile:
            quirks["line of a speaker's profile dropped"] += 1
            continue
        if not speaker and is_direction(line, before_label=_is_labelled(following, names), names=people):
            quirks["stage direction dropped"] += 1
            continue
        text, num_directions = without_directions(text)
        quirks["stage direction dropped"] += num_directions
        quirks["placeholder for a name kept"] += bool(_PLACEHOLDER.search(text))
        if speaker == "other":
            quirks["line of a third speaker dropped"] += 1
        elif speaker:
            if not turns and opening and speaker == "2":
                # The label of the first speaker was forgotten: what stands before the second one is the first one's.
                turns.append(("1", "\n".join(opening)))
                quirks["line without a label kept"] += len(opening)
            elif not turns:
                quirks["line before the first label dropped"] += len(opening)
            turns.append((speaker, text))
        elif turns:
            quirks["line without a label kept"] += 1
            turns[-1] = (turns[-1][0], f"{turns[-1][1]}\n{text}".strip())
        else:
            opening.append(text)
    quirks["empty turn dropped"] += sum(not text for _, text in turns)
    # Both sides' dialogues come from these turns, so they are merged, and that is counted, before there are two.
    return merged((Turn("self" if speaker == "1" else "partner", text) for speaker, text in turns if text), quirks)


def _label(line: str, names: dict[str, str]) -> tuple[str, str]:
    """Return whose line it is ("1", "2", "other", or "" without a label) and its text behind the label."""
    user = _USER.match(line)
    if user:
        return user[1], line[user.end() :].strip()
    name = _NAME.match(line)
    if name:
        return names.get(name[1], "other"), line[name.end() :].strip()
    return "", line


def _is_labelled(following: str | None, names: dict[str, str]) -> bool:
    """Tell whether the next line, if there is one, begins a turn."""
    return not following or bool(_label(following, names)[0])


def _speaker_names(text_lines: tuple[str, ...]) -> dict[str, str]:
    """Return which name is user 1 and which is user 2, in a conversation that labels its turns by two names only."""
    if any(_USER.match(line) for line in text_lines):
        return {}
    found = Counter(name[1] for name in map(_NAME.match, text_lines) if name)
    return dict(zip(found, "12", strict=True)) if len(found) == 2 else {}
