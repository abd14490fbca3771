"""Pairs of replies from files of blind votes: those of the server's page, and those that a run's report exports."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from falconer.data.encode import Encoder
from falconer.data.files.text import read_file, text_of
from falconer.data.leakage import normalise, sentence_set
from falconer.data.personas import persona_names
from falconer.data.sources import load_dialogues
from falconer.data.splits import hold_out
from falconer.errors import FalconerError, first_problem
from falconer.evaluate.text.predictions import read_predictions
from falconer.files.json_value import NotJson, load_value
from falconer.records import Dialogue, Prediction, Turn
from falconer.run.folder import predictions_name
from falconer.talk.text import Writer

# Share of the votes that is held out where no split of the run has their personas, and the fewest votes for that.
_HELD_OUT, _FEWEST = 0.1, 10


class _ReportVote(BaseModel):
    model_config = ConfigDict(strict=True)

    dialogue_id: str
    turn: int
    left: str
    right: str
    vote: Literal["left", "right", "tie"]


@dataclass(frozen=True, slots=True)
class Votes:
    """The votes of a file.

    Args:
        dialogues: one for each vote for a reply. Its last turn is the better reply, whose candidates are both.
        num_left_out: ties, and votes where one reply is empty or both are the same.
    """

    dialogues: tuple[Dialogue, ...]
    num_left_out: int


def read_votes(path: Path, run: Path, encoder: Encoder) -> Votes:
    """Return the votes of a file in the text style of a run's training.

    Args:
        run: the run whose report has exported the votes; their texts are in its predictions files.
        encoder: the run's; its format says what the text style is.

    Raises:
        FalconerError: the file can't be read, or the run has no predictions that belong to it.
    """
    rows = _report_rows(path)
    if rows is not None:
        return _of_report(rows, path, run)
    loaded = load_dialogues(str(path), format="votes")
    styled = [_styled(dialogue, Writer(encoder)) for dialogue in loaded.dialogues]
    # What is counted as a quirk there is a tie, or a vote for an empty reply.
    num_ties = sum(number for name, number in loaded.quirks.items() if name.endswith("left out"))
    return _decided(styled, num_ties)


def split_votes(
    votes: Sequence[Dialogue], train: Sequence[Dialogue], valid: Sequence[Dialogue], seed: int
) -> tuple[list[Dialogue], list[Dialogue]]:
    """Return the votes to train and to validate on, so that no persona is in both.

    Votes of a persona that the training dialogues have are trained on, those of one that only the validation dialogues
    have are validated on. Of the others a tenth is held out by persona, if there are enough.
    """
    names = persona_names([*train, *valid, *votes])
    trained, held = ({_name(one, names) for one in some} - {None} for some in (train, valid))
    first = [vote for vote in votes if _name(vote, names) in trained]
    second = [vote for vote in votes if _name(vote, names) in held - trained]
    rest = [vote for vote in votes if _name(vote, names) not in trained | held]
    if len(rest) < _FEWEST:
        return [*first, *rest], second
    kept, out, _ = hold_out(rest, _HELD_OUT, seed)
    return [*first, *kept], [*second, *out]


def _name(dialogue: Dialogue, names: dict[frozenset[str], int]) -> int | None:
    return names.get(sentence_set(dialogue.persona))


def _report_rows(path: Path) -> list[Any] | None:
    """Return the votes that a report has exported; None if the file has another form."""
    try:
        tree = load_value(text_of(read_file(path)))
    except NotJson:
        return None
    votes = tree.get("votes") if isinstance(tree, dict) else None
    return votes if isinstance(votes, list) else None


def _of_report(rows: Sequence[Any], path: Path, run: Path) -> Votes:
    shown: dict[str, dict[tuple[str, int], Prediction]] = {}
    dialogues, num_ties = [], 0
    for number, row in enumerate(rows, start=1):
        try:
            vote = _ReportVote.model_validate(row)
        except ValidationError as error:
            key, problem = first_problem(error)
            raise FalconerError(
                f"'{path}', vote {number}: {key}: {problem}.", "Export the votes from the report again."
            ) from None
        if vote.vote == "tie":
            num_ties += 1
            continue
        sides = [_prediction(shown, name, vote, path, run) for name in (vote.left, vote.right)]
        better, other = sides if vote.vote == "left" else reversed(sides)
        texts = tuple(one.prediction.strip() for one in (better, other))
        turns = (*(replace(turn, is_learned=False) for turn in better.history), Turn("self", texts[0], texts))
        dialogues.append(Dialogue(vote.dialogue_id, better.persona, turns))
    return _decided(dialogues, num_ties)


def _prediction(
    shown: dict[str, dict[tuple[str, int], Prediction]], name: str, vote: _ReportVote, path: Path, run: Path
) -> Prediction:
    """Return the reply of a system that a vote is about; files are read into `shown` when they are needed."""
    file = run / predictions_name(Path(name).name)
    if name not in shown:
        shown[name] = {(row.dialogue_id, row.turn): row for row in read_predictions(file)}
    found = shown[name].get((vote.dialogue_id, vote.turn))
    if found is None:
        raise FalconerError(
            f"'{path}' has a vote on turn {vote.turn} of dialogue '{vote.dialogue_id}', which '{file}' does not have.",
            "Give the run whose report the votes are from, with the predictions of the same evaluation.",
        )
    return found


def _styled(dialogue: Dialogue, writer: Writer) -> Dialogue:
    """Return a dialogue that people wrote in natural text, or read in it, in the style of the training."""
    turns = tuple(
        replace(
            turn,
            text=writer.as_trained(turn.text),
            candidates=tuple(writer.as_trained(text) for text in turn.candidates),
        )
        for turn in dialogue.turns
    )
    return replace(dialogue, persona=tuple(map(writer.persona_line, dialogue.persona)), turns=turns)


def _decided(dialogues: Sequence[Dialogue], num_ties: int) -> Votes:
    good = [one for one in dialogues if len({normalise(text) for text in one.turns[-1].candidates if text}) > 1]
    return Votes(tuple(good), num_ties + len(dialogues) - len(good))
