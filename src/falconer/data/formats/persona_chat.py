"""Persona-Chat's test set as it was published with both personas, an utterance a line (`test_both_original_final.txt`).

    partner's persona: i like skiing.<TAB>['i', 'like_activity', 'skiing']
    your persona: i have two dogs.<TAB>['i', 'have_pet', 'dog']
    1<TAB>hi , how are you ?
    2<TAB>i am fine . you ?<TAB>['i', ...]

Persona lines have no number; the next block of them, or a number that does not rise, begins the next dialogue. Odd
lines are the partner's, even ones the replies. What stands behind further tabs are knowledge triples: ignored, counted.
"""

import re

from falconer.data.files.row import RowError
from falconer.data.formats.rows import Parsed, Quirks, check_replies
from falconer.data.formats.spoken import check_no_label, persona_line, turn
from falconer.records import Dialogue, Speaker, Turn

# Some copies have a space in place of the first tab; then the persona lines tell the format.
_NUMBERED = re.compile(r"\s*(\d{1,9})[\t ](.*)", re.DOTALL | re.ASCII)
_TRIPLE = re.compile(r"\s*(?:[\[(].*[\])])?\s*", re.DOTALL)


def is_persona_chat(text: str) -> bool:
    """Tell whether a text has one utterance a line: its persona lines have no number, or a tab follows each number."""
    first = [line for line in text[:20_000].split("\n") if line.strip()][:40]
    if not first:
        return False
    if persona_line(first[0].split("\t")[0]):
        return True
    return all(_is_utterance(line) for line in first)


def _is_utterance(line: str) -> bool:
    number, *rest = line.split("\t")
    text, *columns = rest or [""]
    is_text = bool(text.strip()) and not persona_line(text)
    return number.strip().isdecimal() and is_text and all(map(_TRIPLE.fullmatch, columns))


def parse(text: str, name: str, quirks: Quirks) -> Parsed:
    """Yield the dialogues of a file, or a RowError for each one with a line that can't be read."""
    draft = _Draft(0)
    count = 0
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if not line.strip():
            continue
        if draft.is_ended_by(line):
            count += 1
            if not draft.is_broken:
                yield draft.finish(f"{name}-{count:05d}")
            draft = _Draft(number)
        draft.first_line = draft.first_line or number
        if draft.is_broken:
            continue
        try:
            draft.read(line, quirks)
        except RowError as error:
            # The rest of this dialogue is left out too: without the line it is another conversation.
            draft.is_broken, error.line = True, number
            yield error
    if draft.first_line and not draft.is_broken:
        yield draft.finish(f"{name}-{count + 1:05d}")


class _Draft:
    """The dialogue being read."""

    def __init__(self, first_line: int) -> None:
        self.first_line = first_line
        self.personas: dict[Speaker, list[str]] = {"self": [], "partner": []}
        self.turns: list[Turn] = []
        self.number = 0
        self.is_broken = False

    def is_ended_by(self, line: str) -> bool:
        found = _NUMBERED.fullmatch(line)
        if found:
            is_end = int(found[1]) <= self.number
            self.number = int(found[1]) if not is_end else self.number
            return is_end
        return self.number > 0 and bool(persona_line(line.split("\t")[0]))

    def read(self, line: str, quirks: Quirks) -> None:
        found = _NUMBERED.fullmatch(line)
        text, *columns = (found[2] if found else line).split("\t")
        quirks["knowledge triples ignored"] += sum(bool(column.strip()) for column in columns)
        told = persona_line(text)
        if told:
            self.personas[told[0]] += [told[1]] if told[1] else []
            return
        check_no_label(text, "persona", is_opening=not self.turns)
        if not found:
            raise RowError("line number", f"is missing before {text[:30]!r}; expected 'N<TAB>text' or a persona line.")
        if not all(map(_TRIPLE.fullmatch, columns)):
            raise RowError(
                "line",
                "contains two texts; expected one utterance per line, 'N<TAB>text', optionally followed by triples.",
            )
        self.number = int(found[1])
        if not text.strip():
            raise RowError("text", "is empty; expected an utterance after the number.")
        self.turns += turn("partner" if self.number % 2 else "self", text, "text", quirks)

    def finish(self, dialogue_id: str) -> Dialogue | RowError:
        try:
            turns = check_replies(self.turns, "turns")
        except RowError as error:
            error.line = self.first_line
            return error
        return Dialogue(dialogue_id, tuple(self.personas["self"]), turns, tuple(self.personas["partner"]))
