"""The data of the report's plots, lists and search, computed from the predictions and the training steps alone.

Everything here ends as JSON in the page, so it is kept small: 7,801 replies of two systems take about 3 MB, because a
dialogue's turns are stored once and each reply refers to them.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

import numpy as np

from falconer.curves import moving_median
from falconer.data.language import has_spaces
from falconer.evaluate.text.failures import FAILURES, find_failures
from falconer.evaluate.text.pairs import row_f1
from falconer.evaluate.text.words import words
from falconer.records import Prediction, StepRow, Turn

Systems = Mapping[str, Sequence[Prediction]]
MAX_CURVE_POINTS = 1500  # more than a wide screen has pixels for
MIN_PER_TURN = 5  # a mean of fewer replies says nothing
Z95 = 1.959964


def curve(steps: Sequence[StepRow]) -> dict[str, Any] | None:
    """Return a run's losses for drawing, None before its first step.

    The rule is that of `curves.write_loss_curve`: a step's last row counts, and the median is over about a twentieth of
    the run. Of a long run every so many steps are kept; validations all are. A value that is not finite is None.

    Returns:
        `note` on what the losses are; `width` of the median in steps; `train`: rows of step, loss, median, learning
        rate; `valid`: rows of step, loss; `epochs`: rows of step, epoch that began there.
    """
    rows = sorted({int(row["step"]): row for row in steps if "loss" in row}.items())
    if not rows:
        return None
    losses = np.array([float(row["loss"]) for _, row in rows])
    losses[~np.isfinite(losses)] = np.nan
    width = min(2 * (len(losses) // 40) + 1, 101)
    smooth = moving_median(losses, width)
    stride = math.ceil(len(rows) / MAX_CURVE_POINTS)
    kept = [i for i in range(len(rows)) if i % stride == 0 or i == len(rows) - 1]
    rates = [row.get("lr", math.nan) for _, row in rows]
    valid = sorted({int(row["step"]): row["valid_loss"] for row in steps if "valid_loss" in row}.items())
    epochs = [(step, int(epoch)) for step, row in rows if math.isfinite(epoch := row.get("epoch", math.nan))]
    begins = [[step, epoch] for (_, before), (step, epoch) in pairwise(epochs) if epoch > before]
    return {
        "note": f"In nats per {'pair' if 'pairs' in rows[-1][1] else 'target token'}. The faint line shows every step. "
        + preference_note(steps),
        "width": width,
        "train": [[rows[i][0], _finite(losses[i], 4), _finite(smooth[i], 4), _finite(rates[i], 9)] for i in kept],
        "valid": [[step, _finite(loss, 4)] for step, loss in valid],
        "epochs": begins if len(begins) <= 12 else [],
    }


def preference_note(steps: Sequence[StepRow]) -> str:
    """Return what the last validation of a preference training measured besides the loss; "" for any other training."""
    measured = [row for row in steps if "drift" in row]
    if not measured:
        return ""
    last = measured[-1]
    return (
        f"At the last validation, after step {last['step']:,}, the margin was {last['valid_margin']:.3f}, "
        f"{last['valid_accuracy']:.1f} % of the pairs had one above 0, and the drift (KL to the start) was "
        f"{last['drift']:.4f} nats per token."
    )


def by_turn(systems: Systems, language: str = "en") -> dict[str, list[list[float]]]:
    """Return each system's mean F1 by the number of the reply in its dialogue, with a 95 % interval.

    A dialogue has one reply of each number, so the replies of one number are independent and the interval is the plain
    one of a mean. Numbers with fewer than `MIN_PER_TURN` replies are left out.

    Returns:
        For each system rows of number (from 1), mean, low, high, replies.
    """
    found = {}
    for name, rows in systems.items():
        groups: dict[int, list[float]] = {}
        for row in rows:
            groups.setdefault(row.reply_number, []).append(row_f1(row, language))
        found[name] = [
            [number, *_mean_interval(values), len(values)]
            for number, values in sorted(groups.items())
            if len(values) >= MIN_PER_TURN
        ]
    return {name: rows for name, rows in found.items() if len(rows) > 1}


def lengths(systems: Systems, language: str = "en") -> dict[str, Any] | None:
    """Return the share of replies (0-100) by number of whitespace words, gold's too; None without replies.

    In scripts without spaces characters are counted.

    Returns:
        `unit`: "words" or "characters"; `last`: the longest bin, which also holds the longest half per cent; `shares`:
        for each system a list whose position is the number of words.
    """
    if not systems:
        return None
    counts = {name: [_length(row.prediction, language) for row in rows] for name, rows in systems.items()}
    counts["gold"] = [_length(row.reference, language) for row in next(iter(systems.values()))]
    every = sorted(count for each in counts.values() for count in each)
    last = max(1, every[min(len(every) - 1, int(0.995 * len(every)))])
    binned = {name: Counter(min(count, last) for count in each) for name, each in counts.items()}
    return {
        "unit": "words" if has_spaces(language) else "characters",
        "last": last,
        "shares": {
            name: [round(100 * bins[length] / len(counts[name]), 2) for length in range(last + 1)]
            for name, bins in binned.items()
        },
    }


def extremes(predictions: Sequence[Prediction], number: int = 10, language: str = "en") -> tuple[list[int], list[int]]:
    """Return the positions of the `number` worst and best replies by F1, the worst and the best first.

    Many replies tie at 0 and some at 100; among equals the ones with more words of gold come first, because there the
    model had more to say. Fewer than four times `number` replies have no extremes.
    """
    if len(predictions) < 4 * number:
        return [], []
    f1 = [row_f1(row, language) for row in predictions]
    gold = [_length(row.reference, language) for row in predictions]
    worst = sorted(range(len(predictions)), key=lambda i: (f1[i], -gold[i], i))[:number]
    best = sorted(range(len(predictions)), key=lambda i: (-f1[i], -gold[i], i))[:number]
    return worst, best


def pack(systems: Systems, language: str = "en") -> dict[str, Any] | None:
    """Return every context with the systems' replies to it, as small as lists can be; None without replies.

    Returns:
        `systems`: their names; `failures`: keys and labels; `contexts`: rows of dialogue id, persona, the turns' texts,
        and their speakers as one letter each ("p" or "s"); `rows`: lists of context, turn, length of the history, gold,
        and for each system its reply, its F1 in tenths and its failures as bits in the order of `failures`;
        `fingerprint`: a hash of all that.

    Raises:
        ValueError: the systems did not answer the same contexts.
    """
    if not systems:
        return None
    contexts: list[tuple[str, Sequence[str], list[Turn]]] = []
    last: dict[tuple[str, tuple[str, ...]], int] = {}
    flags = {name: find_failures(rows, language) for name, rows in systems.items()}
    packed: list[list[Any]] = []
    for position, group in enumerate(zip(*systems.values(), strict=True)):
        first = group[0]
        if any((row.dialogue_id, row.turn, row.reference) != _identity(first) for row in group):
            raise ValueError(f"row {position + 1}: the systems answered different contexts")
        key = (first.dialogue_id, first.persona)
        context = last.get(key)
        if context is None or not _extends(contexts[context][2], first.history):
            context = last[key] = len(contexts)
            contexts.append((first.dialogue_id, first.persona, []))
        turns = contexts[context][2]
        turns += first.history[len(turns) :]
        row: list[Any] = [context, first.turn, len(first.history), first.reference]
        for name, each in zip(systems, group, strict=True):
            bits = sum(1 << i for i, failure in enumerate(FAILURES) if failure.key in flags[name][position])
            row += [each.prediction, round(10 * row_f1(each, language)), bits]
        packed.append(row)
    found = {
        "systems": list(systems),
        "failures": [[failure.key, failure.label] for failure in FAILURES],
        "contexts": [
            [name, list(persona), [turn.text for turn in turns], "".join(turn.speaker[0] for turn in turns)]
            for name, persona, turns in contexts
        ],
        "rows": packed,
    }
    digest = hashlib.sha256(json.dumps(found).encode("utf-8")).hexdigest()
    return {**found, "fingerprint": digest[:16]}


def wire_json(value: Any) -> str:
    """Return JSON that can stand inside a script element: no text in it can close the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _length(text: str, language: str) -> int:
    return len(text.split() if has_spaces(language) else words(text, language))


def _mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    mean = fmean(values)
    half = Z95 * stdev(values) / math.sqrt(len(values))
    return round(mean, 2), round(max(0.0, mean - half), 2), round(mean + half, 2)


def _extends(turns: Sequence[Turn], history: Sequence[Turn]) -> bool:
    """Say whether one is the beginning of the other, so that one list of turns serves both."""
    shared = min(len(turns), len(history))
    return list(turns[:shared]) == list(history[:shared])


def _identity(row: Prediction) -> tuple[str, int, str]:
    return row.dialogue_id, row.turn, row.reference


def _finite(value: float, digits: int) -> float | None:
    return round(float(value), digits) if math.isfinite(value) else None
