"""The tables beside the scores: what a metrics.json says arrives in them, and nothing where it says nothing."""

from dataclasses import asdict, replace

import pytest

from falconer.evaluate.report import tables as report_tables
from falconer.evaluate.report.tables import Difference, Figure
from falconer.records import Score


def test_a_metrics_file_without_more_gives_empty_parts() -> None:
    parts = report_tables.optional_parts({"base": {}, "tuned": {}, "ranking": None})
    assert set(parts) == {
        "intervals",
        "comparison",
        "controls",
        "slices",
        "legacy",
        "ranking",
        "not_measured",
        "num_dialogues",
    }
    assert not any(parts.values())


def test_what_a_metrics_file_says_arrives(scores: dict[str, Score]) -> None:
    test = {"metric": "f1", "baseline": 9.0, "system": 11.0, "low": 1.0, "high": 3.0, "p": 0.01, "p_holm": 0.02}
    control = {"meaning": "...", "score": asdict(scores["tuned"]), "intervals": {"f1": [20.0, 24.0]}, "tests": []}
    figures = {"f1": [20.0, 18.0, 22.0]}
    parts = report_tables.optional_parts(
        {
            "intervals": {"tuned": {"f1": [19.0, 25.0]}},
            "tests": [{**test, "difference": 2.0}],
            "controls": {"no_persona": control},
            "slices": [
                {"kind": "reply", "name": "1", "num_replies": 9, "systems": {"base": {}, "tuned": figures}},
                {"kind": "reply", "name": "2", "num_replies": 8, "systems": {"tuned": {}}},
                {"kind": "gold", "name": "question", "num_replies": 7, "systems": {"tuned": figures}},
            ],
            "legacy": {"tuned": {"parlai_bleu_4": 1.5}},
            "ranking": {"chance": 5.0, "num_turns": 17},
        }
    )
    assert parts["intervals"] == {"tuned": {"f1": [19.0, 25.0]}, "no persona": {"f1": [20.0, 24.0]}}
    assert parts["comparison"] == [Difference("f1", 2.0, 1.0, 3.0, 0.01, 0.02)]
    assert parts["controls"] == {"no persona": scores["tuned"]}
    assert parts["slices"] == {
        "reply": {"1": {"n": 9, **figures}, "2": {"n": 8}},
        "gold": {"question": {"n": 7, **figures}},
    }
    assert parts["legacy"] == {"tuned": {"parlai_bleu_4": 1.5}} and parts["ranking"]["chance"] == 5.0


def test_slices_show_the_figures_that_any_group_has() -> None:
    groups = {"1": {"n": 1200, "f1": 20.0, "bleu": (2.0, 1.5, 2.5)}, "2": {"n": 8, "new": (0.5, 0.5, 0.5)}}
    [table] = report_tables.slice_tables({"reply": groups})
    assert table.title == "reply" and table.columns == ("replies", "BLEU", "F1", "new")
    assert table.rows == (
        ("1", (Figure("1,200"), Figure("2.00", "1.50 to 2.50"), Figure("20.00"), Figure("–"))),
        ("2", (Figure("8"), Figure("–"), Figure("–"), Figure("0.50"))),
    )


def test_controls_stand_beside_the_model_as_it_is(scores: dict[str, Score]) -> None:
    altered = replace(scores["tuned"], f1=17.31, word_ppl=None)
    table = report_tables.control_table(
        {"tuned": scores["tuned"], "no persona": altered}, {"no persona": {"f1": (15.0, 19.0)}}
    )
    rows = dict(table.rows)
    assert table.columns == ("tuned", "no persona")
    assert rows["F1 ↑"] == (Figure(f"{scores['tuned'].f1:.2f}"), Figure("17.31", "15.00 to 19.00"))
    assert rows["word perplexity ↓"] == (Figure("42.70"), Figure("–"))
    assert "replies" not in rows


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
