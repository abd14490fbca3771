"""The C-score: a sum over persona sentences, a mean over replies, by whatever judges the pairs."""

from pathlib import Path

import numpy as np
import pytest

from falconer.evaluate import consistency
from falconer.evaluate.text.systems import system_of
from falconer.records import Prediction
from falconer.run.metrics import Judged

PERSONA = ("i ski .", "i have a dog .", "i sing .")
ROWS = [
    Prediction("a", 1, "i ski with my dog", "g", PERSONA),  # +1, +1, 0
    Prediction("a", 3, "i never ski", "g", PERSONA),  # -1, 0, 0
    Prediction("b", 1, "", "g", PERSONA),  # nothing said
    Prediction("c", 1, "i never ski", "g"),  # no persona
]


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """A judge by rule: "never X" contradicts a sentence that shares X, a shared content word entails it."""
    asked: list[tuple[str, str]] = []

    def classify(nli, pairs, batch_size, on_progress):  # type: ignore[no-untyped-def]
        asked.extend(pairs)
        shared = [bool({"ski", "dog", "sing"} & set(reply.split()) & set(line.split())) for reply, line in pairs]
        signs = [-1 if "never" in reply else 1 for reply, _ in pairs]
        on_progress(len(pairs), len(pairs))
        return np.array([sign * one for sign, one in zip(signs, shared, strict=True)], dtype=np.int64)

    monkeypatch.setattr(consistency, "load_nli", lambda folder, device: None)
    monkeypatch.setattr(consistency, "classify", classify)
    return asked


def test_the_c_score_by_hand(judged: list[tuple[str, str]]) -> None:
    systems, facts = consistency.judge({"x": system_of("x", ROWS)}, Path("nli"), 4, "cpu", lambda *report: None)
    assert len(judged) == 6 and judged[0] == ("i ski with my dog", "i ski .")
    assert systems["x"].score.c_score == pytest.approx((2 - 1 + 0) / 3)
    assert facts.model == "nli"
    assert facts.systems["x"] == Judged(
        pytest.approx(1 / 3),
        6,
        pytest.approx(100 * 2 / 6),
        pytest.approx(100 * 1 / 6),  # type: ignore[arg-type]
    )


def test_nothing_to_judge_is_not_measured(judged: list[tuple[str, str]]) -> None:
    systems, facts = consistency.judge({"x": system_of("x", ROWS[3:])}, Path("nli"), 4, "cpu", lambda *report: None)
    assert systems["x"].score.c_score is None
    assert facts.systems["x"] == Judged(None, 0, None, None)
