"""Slices: which turns belong where, and that their figures are those of these turns alone."""

import numpy as np
import pytest

from falconer.evaluate.text.history import alternating
from falconer.evaluate.text.metrics import score_predictions
from falconer.evaluate.text.slices import masks, slice_figures
from falconer.evaluate.text.systems import system_of
from falconer.records import Prediction

ROWS = [
    Prediction("a", 1, "p", "do you ski ?", ("i ski .",), alternating(["hi"])),
    Prediction("a", 3, "p", "i am fine .", ("i ski .",), alternating(["hi", "do you ski ?", "no"])),
    Prediction("b", 0, "p", "hello .", ("i sing .",)),
    Prediction("c", 21, "p", "bye .", (), alternating(["x"] * 21)),
]


def names(kind: dict[str, np.ndarray]) -> dict[str, list[int]]:
    return {name: list(np.flatnonzero(mask)) for name, mask in kind.items()}


def test_turns_are_where_they_belong() -> None:
    found = masks(ROWS, ["I ski"])
    assert names(found["reply"]) == {"1": [0, 2], "2": [1], "8+": [3]}
    assert names(found["gold"]) == {"question": [0], "statement": [1, 2, 3]}
    assert names(found["gold persona"]) == {"used": [0], "not used": [1, 2]}
    assert names(found["persona in training"]) == {"seen": [0, 1], "unseen": [2]}
    assert "persona in training" not in masks(ROWS)


def test_each_kind_covers_every_row_once(rows: list[Prediction]) -> None:
    for kind in masks(rows, []).values():
        assert (np.sum(list(kind.values()), axis=0) == 1).all()


def test_figures_are_those_of_the_slice_alone(rows: list[Prediction]) -> None:
    found = slice_figures({"x": system_of("x", rows)}, None, resamples=200, seed=17)
    questions = [row for row in rows if "?" in row.reference]
    (shown,) = [row for row in found if (row.kind, row.name) == ("gold", "question")]
    score = score_predictions(questions)
    assert shown.num_replies == len(questions)
    for key in ("bleu", "rouge_l", "f1", "persona_use", "mean_words"):
        value, low, high = shown.systems["x"][key]
        assert value == pytest.approx(getattr(score, key)) and low <= value <= high, key
    assert "word_ppl" not in shown.systems["x"]
    assert sum(row.num_replies for row in found if row.kind == "reply") == len(rows)
