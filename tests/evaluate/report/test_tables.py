"""The tables beside the scores: what was measured arrives in them, and nothing where nothing was."""

from dataclasses import replace

import pytest

from falconer.evaluate.report import tables as report_tables
from falconer.evaluate.report.tables import Figure
from falconer.records import Score
from falconer.run.metrics import Bounded, Decoded, Difference, Slice


def test_slices_show_the_figures_that_any_group_has() -> None:
    slices = [
        Slice("reply", "1", 1200, {"tuned": {"f1": Bounded(20.0, None, None), "bleu": Bounded(2.0, 1.5, 2.5)}}),
        Slice("reply", "2", 8, {"tuned": {"new": Bounded(0.5, 0.5, 0.5)}, "base": {"chrf": Bounded(1.0, 0.5, 1.5)}}),
        Slice("gold", "question", 7, {"base": {}}),
    ]
    table, other = report_tables.slice_tables(slices, "tuned")
    assert table.title == "reply" and table.columns == ("replies", "BLEU", "F1", "new")
    assert table.rows == (
        ("1", (Figure("1,200"), Figure("2.00", "1.50 to 2.50"), Figure("20.00"), Figure("–"))),
        ("2", (Figure("8"), Figure("–"), Figure("–"), Figure("0.50"))),
    )
    assert other.title == "gold" and other.rows == (("question", (Figure("7"),)),)


def test_each_decoding_is_a_row_that_marks_what_differs(scores: dict[str, Score]) -> None:
    clear = Difference("phrase", 38.0, 0.02, -40.0, -36.0, 0.001, 0.01)
    unclear = Difference("f1", 15.0, 15.2, -0.1, 0.5, 0.2, 0.4)
    shares = {"phrase": 38.0, "own_turn": 0.0, "stock": 25.0}
    own = Decoded(scores["tuned"], shares, {"phrase": (35.5, 40.8)})
    other = Decoded(scores["tuned"], shares | {"phrase": 0.02}, {"f1": (14.0, 16.0)}, (clear, unclear))
    table = report_tables.decoding_table({"greedy": own, "no repeated 3-gram": other})
    (first, figures), (second, others) = table.rows
    assert (first, second) == ("greedy", "no repeated 3-gram") and len(table.columns) == len(figures)
    assert figures[:2] == (Figure("38.0", "35.5 to 40.8"), Figure("25.0"))
    assert others[0] == Figure("< 0.1 *")
    assert others[table.columns.index("F1")] == Figure(f"{scores['tuned'].f1:.2f}", "14.00 to 16.00")


def test_ablations_stand_beside_the_model_as_it_is(scores: dict[str, Score]) -> None:
    altered = replace(scores["tuned"], f1=17.31, word_ppl=None)
    table = report_tables.ablation_table(
        {"tuned": scores["tuned"], "no persona": altered}, {"no persona": {"f1": (15.0, 19.0)}}
    )
    rows = dict(table.rows)
    assert table.columns == ("tuned", "no persona")
    assert rows["F1 ↑"] == (Figure(f"{scores['tuned'].f1:.2f}"), Figure("17.31", "15.00 to 19.00"))
    assert rows["word perplexity ↓"] == (Figure("42.70"), Figure("–"))
    assert "replies" not in rows


@pytest.mark.parametrize(
    ("low", "high", "p_holm", "clear"),
    [(0.5, 3.5, 0.04, True), (0.5, 3.5, 0.06, False), (-0.5, 3.5, 0.01, False), (0.5, 3.5, None, True)],
)
def test_a_difference_is_clear_by_its_interval_and_by_holm(
    low: float, high: float, p_holm: float | None, clear: bool
) -> None:
    assert Difference("f1", 0.0, 2.0, low, high, 0.01, p_holm).is_significant is clear


def test_older_definitions_have_a_column_for_each_system() -> None:
    table = report_tables.legacy_table({"base": {"parlai_bleu_4": 0.5}, "tuned": {"parlai_bleu_4": 1.5, "other": 2.0}})
    assert table.columns == ("base", "tuned")
    assert table.rows == (
        ("ParlAI's bleu-4", (Figure("0.50"), Figure("1.50"))),
        ("other", (Figure("–"), Figure("2.00"))),
    )


@pytest.mark.parametrize(("share", "text"), [(0, "0.0"), (0.01, "< 0.1"), (0.06, "0.1"), (100, "100.0"), (None, "–")])
def test_a_share_that_occurs_is_not_zero(share: float | None, text: str) -> None:
    assert report_tables.share_text(share) == text


@pytest.mark.parametrize(("p", "text"), [(0.0004, "< 0.001"), (0.001, "0.001"), (0.5, "0.500"), (None, "–")])
def test_p_has_three_digits(p: float | None, text: str) -> None:
    assert report_tables.p_text(p) == text
