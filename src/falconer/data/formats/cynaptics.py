"""Cynaptics/persona-chat: rows `persona_b` (list), `dialogue` (list, or one text), `reference` (B's reply to it).

B owns the persona; `reference` follows as its last turn. Every reply of B is learned, so a row whose dialogue is the
beginning of another row's (same persona, same words) would only repeat it: it is left out and counted.
"""

import re
from collections.abc import Iterable
from typing import Any

from falconer.data.files.row import Row, RowError
from falconer.data.formats.merging import merged
from falconer.data.formats.rows import Parsed, Quirks, as_list, as_text, check_replies, each, get, lines, sentences
from falconer.records import Dialogue, Turn

# From the first of several spaces on alone, or many of them would be tried from each one.
_LABEL = re.compile(r"(?<!\s)\s*+(?:persona|user|speaker)\s*([ab12])\s*:\s*", re.IGNORECASE)
_INNER_LABEL = re.compile(r"(?<!\s)\s++(?=persona\s*[ab]\s*:)", re.IGNORECASE)


def parse(rows: Iterable[Row | RowError], name: str, quirks: Quirks) -> Parsed:
    """Yield one Dialogue for each row that isn't the beginning of another row."""
    parsed = list(each(rows, lambda line, row: [_read(line, row, name, quirks)]))
    # Texts only: they hash fast, and the sides always alternate.
    keys = [
        (item.persona, tuple(turn.text for turn in item.turns)) if isinstance(item, Dialogue) else None
        for item in parsed
    ]
    contained = {(key[0], key[1][:end]) for key in keys if key for end in range(1, len(key[1]))}
    for item, key in zip(parsed, keys, strict=True):
        if key in contained:
            quirks["row contained in another row left out"] += 1
            continue
        if key:
            contained.add(key)
        yield item


def _read(line: int, row: dict[str, Any], name: str, quirks: Quirks) -> Dialogue:
    persona = get(row, "persona_b")
    if isinstance(persona, str) and not persona.strip().startswith("["):
        persona = lines(persona)
    dialogue = get(row, "dialogue")
    if isinstance(dialogue, str) and not dialogue.strip().startswith("["):
        dialogue = lines(_INNER_LABEL.sub("\n", dialogue))
    texts = [as_text(text, f"dialogue[{i}]") for i, text in enumerate(as_list(dialogue, "dialogue"))]
    reference = _LABEL.sub("", as_text(get(row, "reference"), "reference"), count=1)
    turns: list[Turn] = []
    for i, text in enumerate(texts):
        label = _LABEL.match(text)
        # Without a label: the last one is A's, because B's reference answers it, and the two take turns.
        is_b = label[1].lower() in "b2" if label else (len(texts) - i) % 2 == 0
        said = as_text(text[label.end() :] if label else text, f"dialogue[{i}]")
        turns.append(Turn("self" if is_b else "partner", said))
    answer = Turn("self", as_text(reference, "reference"))
    if turns[-1:] != [answer]:
        turns.append(answer)
    # Merged here, and not with all other formats' later on: rows are compared by what is learned in the end.
    joined = merged(turns, quirks)
    return Dialogue(f"{name}-{line:05d}", sentences(persona, "persona_b"), check_replies(joined, "dialogue"))
