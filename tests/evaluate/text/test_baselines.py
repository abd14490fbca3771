"""The baselines do what their names say, whatever the rows lack."""

from dataclasses import replace

import pytest

from falconer.evaluate.text.baselines import BASELINES, CONSTANT_REPLY, baseline_replies
from falconer.evaluate.text.history import alternating
from falconer.evaluate.text.metrics import text_score
from falconer.records import Prediction, Turn


def row(turn: int = 0, **changes: object) -> Prediction:
    return replace(
        Prediction("d", turn, "p", "r", ("line one", "line two"), alternating(("hi", "hello", "how are you ?"))),
        **changes,
    )


def test_each_baseline() -> None:
    replies = baseline_replies([row(), row(1, history=alternating(["bye"]))])
    assert replies["constant"] == [CONSTANT_REPLY] * 2
    assert replies["echo"] == ["how are you ?", "bye"]
    assert all(line in ("line one", "line two") for line in replies["persona"])
    assert list(replies) == list(BASELINES)


def test_a_baseline_without_material_is_left_out() -> None:
    bare = Prediction("d", 0, "p", "r")
    assert list(baseline_replies([bare])) == ["constant"]
    assert list(baseline_replies([replace(bare, history=alternating(["hi"]))])) == ["constant", "echo"]


def test_an_echo_is_of_the_partner_whoever_spoke_last() -> None:
    history = (Turn("partner", "who are you ?"), Turn("self", "a nurse ."), Turn("self", "and i ski ."))
    assert baseline_replies([row(history=history)])["echo"] == ["who are you ?"]
    assert "echo" not in baseline_replies([row(history=(Turn("self", "hi"),))])


def test_a_single_row_without_material_gets_an_empty_reply() -> None:
    replies = baseline_replies([row(), row(1, history=(), persona=())])
    assert replies["echo"] == ["how are you ?", ""]
    assert replies["persona"][1] == ""


def test_persona_lines_depend_on_seed_and_row_only() -> None:
    rows = [row(turn) for turn in range(50)]
    lines = baseline_replies(rows, seed=17)["persona"]
    assert set(lines) == {"line one", "line two"}
    assert baseline_replies(rows[10:20], seed=17)["persona"] == lines[10:20]
    assert baseline_replies(rows, seed=18)["persona"] != lines


def test_figures_on_real_dialogues(rows: list[Prediction]) -> None:
    """`sacrebleu ref.txt -i FLOOR.txt -lc --force -f score_only -w 4` and rouge_score.rouge, as in test_metrics."""
    references = [row.reference for row in rows]
    replies = {name: text_score(texts, references) for name, texts in baseline_replies(rows).items()}
    assert replies["constant"].bleu == pytest.approx(1.5539, abs=1e-4)
    assert replies["constant"].rouge_l == pytest.approx(17.0293, abs=1e-4)
    assert replies["echo"].bleu == pytest.approx(1.3151, abs=1e-4)
    assert replies["echo"].rouge_l == pytest.approx(14.3257, abs=1e-4)
