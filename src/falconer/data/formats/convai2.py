"""ConvAI2 / Persona-Chat text as ParlAI has it: self|other|both|none x original|revised, with or without candidates.

A line is `N text`; N starts at 1 again with each dialogue. First come `your persona: ...` and `partner's persona: ...`,
then turns `message<TAB>reply<TAB>reward<TAB>candidate|...|candidate`, the gold reply last among the candidates.
The replies are those of "you", in every variant: so in an `other` file, which shows only the partner's persona,
`partner_persona` is filled and `persona` is empty; the sides are not exchanged, for the candidates belong to the
replies.

Known quirks, counted: `__SILENCE__` for "you open" (dropped), tab-separated knowledge triples behind or after persona
lines (ignored), a message without a reply (kept as a turn of the partner). Labels are read in any spelling (capitals,
typographic apostrophe, full-width colon); a line that looks like a label of another kind is a bad row, never a turn.
"""

import re

from falconer.data.files.row import RowError
from falconer.data.formats.rows import Parsed, Quirks, check_candidates, check_replies
from falconer.data.formats.spoken import SILENCE, Draft, check_no_label, check_no_opening_label, persona_line
from falconer.records import Dialogue, Turn

_REWARD = re.compile(r"-?\d*\.?\d*")
_LINE = re.compile(r"\s*(\d{1,9})(?:[ \t\u3000](.*)|)", re.ASCII | re.DOTALL)


def is_convai2(text: str) -> bool:
    """Tell whether the text begins with numbered lines that hold a persona or tab-separated turns."""
    first = [line for line in text[:20_000].split("\n") if line.strip()][:20]
    found = [_LINE.fullmatch(line) for line in first]
    rests = [numbered[2] or "" for numbered in found if numbered]
    return bool(first and found[0]) and any("\t" in rest or "persona" in rest.lower() for rest in rests)


def parse(text: str, name: str, quirks: Quirks) -> Parsed:
    """Yield the dialogues of a file, or a RowError for each one with a line that can't be read.

    Args:
        text: the file's content.
        name: ids are `name-00001` onwards, in the order of the file.
        quirks: counts of the quirks that were handled.
    """
    draft: Draft | None = None
    number = count = 0
    for line_number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if not line.strip():
            continue
        found = _LINE.fullmatch(line)
        if found and (draft is None or int(found[1]) <= number):
            if draft and not draft.is_broken:
                count += 1
                yield _finish(draft, f"{name}-{count:05d}")
            draft = Draft(line_number)
        draft = draft or Draft(line_number)
        number = int(found[1]) if found else number
        if draft.is_broken:
            continue
        try:
            if not found:
                raise RowError("line number", "is missing; expected 'N text'. Number the lines of a dialogue from 1.")
            _read_line(draft, found[2] or "", quirks)
        except RowError as error:
            # The rest of this dialogue is left out too: without the line it is another conversation.
            draft.is_broken = True
            error.line = line_number
            count += 1
            yield error
    if draft and not draft.is_broken:
        yield _finish(draft, f"{name}-{count + 1:05d}")


def _finish(draft: Draft, dialogue_id: str) -> Dialogue | RowError:
    try:
        if draft.turns and not any(turn.speaker == "self" for turn in draft.turns):
            raise RowError(
                "turns",
                "contain no reply: no line has a tab between message and reply. If an editor turned tabs into spaces, "
                "take the file as it was published.",
            )
        turns = check_replies(draft.turns, "turns")
    except RowError as error:
        error.line = draft.first_line
        return error
    return Dialogue(dialogue_id, tuple(draft.persona), turns, tuple(draft.partner_persona))


def _read_line(draft: Draft, rest: str, quirks: Quirks) -> None:
    columns = rest.split("\t")
    first = columns[0].strip()
    has_reply = len(columns) == 2 or (len(columns) > 2 and bool(_REWARD.fullmatch(columns[2].strip())))
    if told := persona_line(first):
        if has_reply and columns[1].strip() and not columns[1].strip().startswith("["):
            raise RowError("persona", f"is followed by {columns[1][:30]!r}, a reply; expected the sentence alone.")
        quirks["knowledge triples ignored"] += len(columns) > 1
        persona = draft.persona if told[0] == "self" else draft.partner_persona
        persona += [told[1]] if told[1] else []
        return
    if not has_reply:
        check_no_label(first, "persona", is_opening=not draft.turns)
        if not draft.turns:
            check_no_opening_label(first, "persona")
    if not draft.turns and len(columns) == 3 and not _REWARD.fullmatch(columns[2].strip()):
        quirks["knowledge triples ignored"] += 1
        return
    if not first:
        raise RowError("message", "is empty; expected text, or __SILENCE__ if the reply begins the dialogue.")
    if SILENCE.fullmatch(first):
        quirks["silence dropped"] += 1
    else:
        draft.turns.append(Turn("partner", first))
    if len(columns) == 1:
        quirks["message without a reply"] += 1
        return
    reply = columns[1].strip()
    if not reply:
        raise RowError("reply", "is empty; expected 'message<TAB>reply'. Write the reply or remove the line.")
    if SILENCE.fullmatch(reply):
        quirks["silence dropped"] += 1
        return
    candidates = tuple(text for text in map(str.strip, columns[3].split("|")) if text) if len(columns) > 3 else ()
    draft.turns.append(check_candidates(Turn("self", reply, candidates), "candidates"))
