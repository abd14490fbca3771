"""The pairs of replies of a preference training, as a run keeps them: JSON Lines, a pair a row.

{"source": "repetitions", "dialogue_id": "train-12", "turn": 3, "split": "train", "persona": ["i ski ."],
 "history": [{"speaker": "partner", "text": "hi !"}], "chosen": "hello !", "rejected": "hi ! hi ! hi !"}
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from falconer.errors import FalconerError, first_problem
from falconer.files.json_record import read_text
from falconer.files.replace import replace_file
from falconer.records import PreferencePair, Speaker, Turn
from falconer.run.folder import PAIRS
from falconer.run.manifest import check_content, read_manifest

_HINT = "Restore the file that falconer prefer wrote, or start again with another --out."


class _Turn(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    speaker: Speaker
    text: str


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    source: str
    dialogue_id: str
    turn: int
    split: Literal["train", "valid"]
    persona: list[str]
    history: list[_Turn]
    chosen: str
    rejected: str


def write_pairs(run: Path, pairs: Iterable[PreferencePair]) -> None:
    """Write a run's pairs.jsonl; the manifest that is written when the training starts has its hash.

    Raises:
        FalconerError: no space, or the folder can't be written to.
    """
    with replace_file(run / PAIRS) as aside, aside.open("wb") as file:
        for pair in pairs:
            file.write(_row(pair).model_dump_json().encode() + b"\n")


def read_pairs(run: Path) -> list[PreferencePair]:
    """Return the pairs of a run, in their order.

    Raises:
        FalconerError: there are none, or a row is not what was written; the message names it.
    """
    path = run / PAIRS
    if not os.path.lexists(path):
        raise FalconerError(f"'{run}' contains no pairs of replies ({PAIRS} is missing).", _HINT)
    check_content(path, read_manifest(run, _HINT), _HINT)
    found = []
    for number, line in enumerate(read_text(path, _HINT).split("\n")[:-1], start=1):
        try:
            found.append(_pair(_Row.model_validate_json(line)))
        except ValidationError as error:
            key, problem = first_problem(error)
            where = f"line {number}, '{key}'" if key else f"line {number}"
            raise FalconerError(f"'{path}' is damaged: {where}: {problem}.", _HINT) from None
    return found


def _row(pair: PreferencePair) -> _Row:
    return _Row(
        source=pair.source, dialogue_id=pair.dialogue_id, turn=pair.turn,
        split="valid" if pair.is_validation else "train", persona=list(pair.persona),
        history=[_Turn(speaker=turn.speaker, text=turn.text) for turn in pair.history],
        chosen=pair.chosen, rejected=pair.rejected,
    )  # fmt: skip


def _pair(row: _Row) -> PreferencePair:
    return PreferencePair(
        row.source, row.dialogue_id, row.turn, tuple(row.persona),
        tuple(Turn(turn.speaker, turn.text) for turn in row.history), row.chosen, row.rejected, row.split == "valid",
    )  # fmt: skip
