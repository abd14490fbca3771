"""What records say of themselves: which turns are replies, who said what, how long a reply is."""

import numpy as np

from falconer.records import Dialogue, Example, Prediction, Score, Turn

TURNS = (
    Turn("self", "a"), Turn("self", "b", is_learned=False), Turn("partner", "c"), Turn("partner", "d"),
    Turn("self", "e"),
)  # fmt: skip


def test_replies_are_the_learned_turns_of_self() -> None:
    assert Dialogue("1", (), TURNS).replies == (0, 4)
    assert Dialogue("1", (), TURNS[2:4]).replies == ()


def test_a_history_tells_its_speakers_apart() -> None:
    row = Prediction("1", 4, "p", "r", history=TURNS[:4])
    assert row.said_by("self") == ["a", "b"] and row.said_by("partner") == ["c", "d"]
    assert row.reply_number == 3 and Prediction("1", 0, "p", "r").reply_number == 1


def test_the_targets_of_an_example_are_those_of_its_replies() -> None:
    mask = np.array([0, 1, 1, 1, 0, 1, 1], bool)
    example = Example(np.arange(7, dtype=np.int32), mask, "1", (1, 3, 5), (3, 4, 7), (0, 1, 4))
    assert example.reply_sizes == (2, 1, 2) and example.num_targets == 5


def test_what_a_score_does_not_say_is_named() -> None:
    unmeasured = Score(num_replies=1, bleu=0.0).unmeasured
    assert "bleu" not in unmeasured and "num_empty" not in unmeasured and "f1" in unmeasured
