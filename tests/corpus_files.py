"""What the tests of the corpora's formats share: loading rows or text, and what came of it in plain values."""

import json
from pathlib import Path
from typing import Any

from falconer.data.sources import Loaded, load_dialogues
from falconer.records import Dialogue

FIXTURES = Path(__file__).parent / "data" / "fixtures"


def load(folder: Path, content: Any, **options: str) -> Loaded:
    """Write rows (as JSON lines) or a text to a file, and load it."""
    text = (
        content if isinstance(content, str) else "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in content)
    )
    path = folder / "x"
    path.write_text(text, encoding="utf-8")
    return load_dialogues(str(path), **options)


def bad(folder: Path, good: Any, *wrong: Any, **options: str) -> list[tuple[int, str, str]]:
    """Load a good row and wrong ones behind it, leave the wrong ones out, and return (line, field, message) of each."""
    loaded = load(folder, [good, *wrong], on_bad_row="skip", **options)
    assert len(loaded.dialogues) == 1
    return [(row.line, row.field, row.message) for row in loaded.bad_rows]


def check_bad(folder: Path, good: Any, *wrong: tuple[Any, str]) -> list[str]:
    """Check that each wrong row behind a good one is left out with an error at its field, which stands beside it.

    Returns:
        The messages.
    """
    found = bad(folder, good, *(row for row, _ in wrong))
    assert [(line, field) for line, field, _ in found] == [(line, field) for line, (_, field) in enumerate(wrong, 2)]
    return [message for _, _, message in found]


def said(dialogue: Dialogue) -> list[tuple[str, str]]:
    return [(turn.speaker, turn.text) for turn in dialogue.turns]


def counts(loaded: Loaded) -> tuple[int, int, int, int]:
    """Return the numbers of dialogues, replies, persona sentences and partner's persona sentences."""
    return (
        len(loaded.dialogues),
        loaded.num_replies,
        sum(len(dialogue.persona) for dialogue in loaded.dialogues),
        sum(len(dialogue.partner_persona) for dialogue in loaded.dialogues),
    )


def load_text(tmp_path: Path, name: str, content: str, **options: str) -> Loaded:
    """Write a file of this content and load it."""
    (tmp_path / name).write_text(content, encoding="utf-8")
    return load_dialogues(str(tmp_path / name), **options)
