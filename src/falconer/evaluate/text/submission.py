"""Checking a predictions file on ConvAI2's validation set, and its row for the table in docs/results.md.

The gold replies themselves are not part of falconer, only a digest of each, so a file must carry them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

from falconer import __version__
from falconer.data.files.row import shown
from falconer.errors import FalconerError
from falconer.evaluate.report.published import CONVAI2_VALID_SHA256, gold_sha256, letters
from falconer.evaluate.report.score_table import METRICS, format_value
from falconer.evaluate.text.score import FileScore
from falconer.records import Prediction

# A line for each dialogue: the first digits of the SHA-256 of each gold reply's letters.
_DIGESTS = "convai2-valid.txt"
_DIGITS = 6
# What can be computed of any predictions file, in the order of the columns; the last two need the model.
COLUMNS = ("bleu", "rouge_l", "f1", "chrf", "bleu_2", "distinct_1", "distinct_2", "mean_words", "word_ppl", "hits_1")


def as_submission(predictions: Sequence[Prediction], path: Path) -> list[Prediction]:
    """Return the rows of a file with the dialogues of ConvAI2's validation set, if they are its replies in its order.

    Gold replies are compared by their letters and digits: case, punctuation and spaces do not count.

    Raises:
        FalconerError: another number of replies, other gold replies or another order; names the first row that differs.
    """
    expected = gold_digests()
    places = [(dialogue, turn) for dialogue, replies in enumerate(expected) for turn in range(len(replies))]
    found = [digest(row.reference) for row in predictions]
    wanted = [one for replies in expected for one in replies]
    # A file that ends too early, or goes on too long, differs behind its common part.
    first = next((i for i, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), len(found))
    if found != wanted:
        raise _unlike(predictions, path, min(first, len(wanted)), places)
    numbers = [f"convai2-valid-{dialogue + 1:04d}" for dialogue, _ in places]
    return [replace(row, dialogue_id=name) for row, name in zip(predictions, numbers, strict=True)]


def gold_digests() -> list[list[str]]:
    """Return the digest of each gold reply of ConvAI2's validation set, by dialogue."""
    text = (resources.files("falconer") / "assets" / _DIGESTS).read_text(encoding="ascii")
    return [line.split() for line in text.splitlines()]


def digest(text: str) -> str:
    """Return the digest of a reply: of its letters and digits alone."""
    return hashlib.sha256(letters(text).encode("utf-8")).hexdigest()[:_DIGITS]


def markdown_row(result: FileScore, name: str) -> str:
    """Return a scored submission as the header, rule and row of docs/results.md's table.

    Args:
        name: what the system is to be called there.
    """
    metrics = {metric.key: metric for metric in METRICS}
    titles = ["system", *(metrics[key].label for key in COLUMNS), "signature", "SHA-256"]
    cells = [name.replace("|", "\\|"), *(figure(result, key) for key in COLUMNS)]
    cells += [signature(result), f"`{result.sha256[:12]}`"]
    lines = (titles, ["---"] * len(titles), cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figure(result: FileScore, key: str) -> str:
    """Return a figure with half the width of its 95 % interval, where it has one."""
    digits = next(metric.digits for metric in METRICS if metric.key == key)
    text = format_value(getattr(result.score, key), digits)
    bounds = result.intervals.get(key)
    return f"{text} ± {format_value((bounds[1] - bounds[0]) / 2, digits)}" if bounds else text


def signature(result: FileScore) -> str:
    """Return by what the figures were computed, and over which gold replies, in one cell."""
    bleu = result.signatures["bleu"].replace("|", " ")
    bootstrap = result.bootstrap
    resampled = f"{bootstrap.resamples} resamples of {bootstrap.num_dialogues:,} dialogues, seed {bootstrap.seed}"
    return f"falconer {__version__}, gold {CONVAI2_VALID_SHA256[:8]}, BLEU {bleu}, {resampled}"


def _unlike(
    predictions: Sequence[Prediction], path: Path, first: int, places: Sequence[tuple[int, int]]
) -> FalconerError:
    hint = "The gold replies must be those of valid_self_original.txt, in its order; see docs/results.md."
    counts = f"'{path}' has {len(predictions):,} replies, and ConvAI2's validation set has {len(places):,}"
    if first >= len(predictions):
        return FalconerError(f"{counts}: the file ends after row {first:,}, though its rows are the right ones.", hint)
    if first >= len(places):
        return FalconerError(f"{counts}: row {first + 1:,} is the first one too many.", hint)
    dialogue, turn = places[first]
    gold = shown(predictions[first].reference)
    where = f"row {first + 1:,} (reply {turn + 1} of dialogue {dialogue + 1:,}) has the gold reply {gold}"
    if len(predictions) != len(places):
        return FalconerError(f"{counts}. The first that differs: {where}.", hint)
    if gold_sha256(row.reference for row in predictions) == CONVAI2_VALID_SHA256:
        return FalconerError(
            f"'{path}' has the gold replies of ConvAI2's validation set in another order: {where}, which belongs "
            "elsewhere.",
            hint,
        )
    return FalconerError(f"'{path}' has other gold replies than ConvAI2's validation set: {where}.", hint)
