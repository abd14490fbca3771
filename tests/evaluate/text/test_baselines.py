"""The trivial floors do what their names say, whatever the rows lack."""

from dataclasses import replace

import pytest

from falconer.evaluate.text.baselines import CONSTANT_REPLY, FLOORS, floor_predictions
from falconer.evaluate.text.history import alternating
from falconer.evaluate.text.metrics import text_score
from falconer.records import Prediction, Turn


def row(turn: int = 0, **changes: object) -> Prediction:
    return replace(
        Prediction("d", turn, "p", "r", ("line one", "line two"), alternating(("hi", "hello", "how are you ?"))),
        **changes,
    )


def test_each_floor() -> None:
    floors = floor_predictions([row(), row(1, history=alternating(["bye"]))])
    assert floors["constant"] == [CONSTANT_REPLY] * 2
    assert floors["echo"] == ["how are you ?", "bye"]
    assert all(line in ("line one", "line two") for line in floors["persona"])
    assert list(floors) == list(FLOORS)


def test_a_floor_without_material_is_left_out() -> None:
    bare = Prediction("d", 0, "p", "r")
    assert list(floor_predictions([bare])) == ["constant"]
    assert list(floor_predictions([replace(bare, history=alternating(["hi"]))])) == ["constant", "echo"]


def test_an_echo_is_of_the_partner_whoever_spoke_last() -> None:
    history = (Turn("partner", "who are you ?"), Turn("self", "a nurse ."), Turn("self", "and i ski ."))
    assert floor_predictions([row(history=history)])["echo"] == ["who are you ?"]
    assert "echo" not in floor_predictions([row(history=(Turn("self", "hi"),))])


def test_a_single_row_without_material_gets_an_empty_reply() -> None:
    floors = floor_predictions([row(), row(1, history=(), persona=())])
    assert floors["echo"] == ["how are you ?", ""]
    assert floors["persona"][1] == ""


def test_persona_lines_depend_on_seed_and_row_only() -> None:
    rows = [row(turn) for turn in range(50)]
    lines = floor_predictions(rows, seed=17)["persona"]
    assert set(lines) == {"line one", "line two"}
    assert floor_predictions(rows[10:20], seed=17)["persona"] == lines[10:20]
    assert floor_predictions(rows, seed=18)["persona"] != lines


def test_figures_on_real_dialogues(rows: list[Prediction]) -> None:
    """`sacrebleu ref.txt -i FLOOR.txt -lc --force -f score_only -w 4` and rouge_score.rouge, as in test_metrics."""
    references = [row.reference for row in rows]
    floors = {name: text_score(texts, references) for name, texts in floor_predictions(rows).items()}
    assert floors["constant"].bleu == pytest.approx(1.5539, abs=1e-4)
    assert floors["constant"].rouge_l == pytest.approx(17.0293, abs=1e-4)
    assert floors["echo"].bleu == pytest.approx(1.3151, abs=1e-4)
    assert floors["echo"].rouge_l == pytest.approx(14.3257, abs=1e-4)
