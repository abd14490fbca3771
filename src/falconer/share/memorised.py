"""Memorisation: how many generated replies are training replies word for word, beside the replies that people wrote.

Case, punctuation and spaces are ignored, as in `data.leakage`. A run keeps hashes of its training replies, so the
training data itself is not needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from falconer.data.leakage import Contents
from falconer.data.recorded import VERSION
from falconer.errors import FalconerError
from falconer.evaluate.text.predictions import read_predictions
from falconer.evaluate.text.words import words
from falconer.records import Prediction
from falconer.run.folder import SPLITS, predictions_name, read_evaluation, read_splits

# Shorter replies ("i am good . how are you ?") are said by everybody.
LONG_WORDS = 8
RESAMPLES, SEED = 1000, 17


@dataclass(frozen=True, slots=True)
class Share:
    """A share of replies that are training replies, 0-100, with its 95 % interval over dialogues.

    Args:
        low, high: None if there is no reply of this length.
    """

    num_replies: int
    num_verbatim: int
    low: float | None
    high: float | None

    @property
    def percent(self) -> float | None:
        return 100 * self.num_verbatim / self.num_replies if self.num_replies else None


@dataclass(frozen=True, slots=True)
class Memorised:
    """The table: by system ("tuned", "base", "human"), the share among all replies and among the long ones."""

    every: Mapping[str, Share]
    long: Mapping[str, Share]

    @property
    def is_conspicuous(self) -> bool:
        """Whether long replies of the tuned model are training replies more often than those of people, surely."""
        tuned, human = self.long["tuned"], self.long["human"]
        return tuned.low is not None and human.high is not None and tuned.low > human.high


def memorised(run: Path) -> Memorised | str:
    """Return the table of a run's last evaluation, or the reason why there is none.

    Raises:
        FalconerError: a file of the run is damaged.
    """
    packed = read_splits(run)
    if packed is None or packed.get("version") != VERSION:
        return "this run was trained by a version that kept no hashes of its training replies"
    if not (run / predictions_name("tuned")).is_file():
        return "the run has not been evaluated, so there are no replies to compare"
    try:
        trained = Contents.from_json(packed["trained"])
    except (KeyError, TypeError, ValueError) as error:
        raise FalconerError(
            f"The record of '{run}' is damaged: {SPLITS} does not describe its dialogues ({error}).",
            "Restore the file that this run wrote.",
        ) from error
    replies = {name: read_predictions(run / predictions_name(name)) for name in ("tuned", "base") if _has(run, name)}
    evaluation = read_evaluation(run)
    return table(trained, replies, evaluation.language if evaluation else "en")


def table(trained: Contents, replies: Mapping[str, Sequence[Prediction]], language: str = "en") -> Memorised:
    """Return the shares of each system's replies, and of the gold replies to the same turns.

    Args:
        replies: by system; "tuned" is required.
        language: of the replies, by whose rules words are counted.
    """
    rows = {name: [(row.dialogue_id, row.prediction) for row in found] for name, found in replies.items()}
    rows["human"] = [(row.dialogue_id, row.reference) for row in replies["tuned"]]
    every = {name: _share(trained, found) for name, found in rows.items()}
    long = {
        name: _share(trained, [row for row in found if len(words(row[1], language)) >= LONG_WORDS])
        for name, found in rows.items()
    }
    return Memorised(every, long)


def _share(trained: Contents, rows: Sequence[tuple[str, str]]) -> Share:
    if not rows:
        return Share(0, 0, None, None)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(name for name, _ in rows))}
    counts = np.zeros((len(numbers), 2))
    for name, text in rows:
        counts[numbers[name]] += (trained.has_reply(text), 1)
    drawn = np.random.default_rng(SEED).integers(len(numbers), size=(RESAMPLES, len(numbers)))
    sums = counts[drawn].sum(axis=1)
    low, high = np.percentile(100 * sums[:, 0] / sums[:, 1], (2.5, 97.5))
    return Share(len(rows), int(counts[:, 0].sum()), float(low), float(high))


def _has(run: Path, system: str) -> bool:
    return (run / predictions_name(system)).is_file()
