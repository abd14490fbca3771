"""The one table: which rows, which digits, which value is marked."""

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console

from falconer.evaluate.report.score_table import METRICS, Table, format_value, score_table, tabulate
from falconer.records import Score

LOW = Score(10, 1.0, 0.9, 0.95, 10.0, 12.0, 5.0, 30.0, 9.5, 0, 50.0, 90.0, 200.0, 1.8)
HIGH = replace(LOW, bleu=2.0, rouge_l=11.0, f1=13.0, ended_share=99.0, token_ppl=20.0, word_ppl=40.0, bits_per_char=1.2)
FLOOR = replace(LOW, bleu=3.0, f1=13.004, ended_share=None, token_ppl=None, word_ppl=None, bits_per_char=None)


def marked(table: Table) -> dict[str, list[str]]:
    names = [column.name for column in table.columns]
    return {
        metric.key: [name for name, cell in zip(names, cells, strict=True) if cell.is_best]
        for metric, cells in table.rows
    }


def test_every_figure_of_a_score_has_one_row() -> None:
    assert sorted(metric.key for metric in METRICS) == sorted(Score.__slots__)


def test_the_best_of_each_row_is_marked_baselines_included() -> None:
    best = marked(tabulate({"base": LOW, "tuned": HIGH}, {"constant": FLOOR}, gold=replace(LOW, bleu=100.0, f1=100.0)))
    assert best["word_ppl"] == best["token_ppl"] == best["bits_per_char"] == ["tuned"]  # lower is better
    assert best["ended_share"] == ["tuned"]
    assert best["bleu"] == ["constant"]  # a baseline that wins is seen to win, and gold does not compete
    assert best["f1"] == ["tuned", "constant"]  # both print 13.00
    assert best["distinct_1"] == best["mean_words"] == best["num_replies"] == []  # neither way is better


def test_one_system_alone_is_not_marked_and_unmeasured_rows_are_left_out() -> None:
    table = tabulate({"file": FLOOR}, {})
    assert not any(marked(table).values())
    assert "word_ppl" not in marked(table)


def test_not_a_number_is_never_the_best() -> None:
    assert marked(tabulate({"base": replace(LOW, word_ppl=math.nan), "tuned": HIGH}, {}))["word_ppl"] == []
    assert marked(tabulate({"base": replace(LOW, word_ppl=math.inf), "tuned": HIGH}, {}))["word_ppl"] == ["tuned"]


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (None, 2, "–"),
        (5.157, 2, "5.16"),
        (0, 0, "0"),
        (7801, 0, "7,801"),
        (213543.21, 2, "213,543"),
        (math.inf, 2, "inf"),
    ],
)
def test_format(value: float | None, digits: int, text: str) -> None:
    assert format_value(value, digits) == text


def test_the_terminal_shows_the_same_table() -> None:
    stream = io.StringIO()
    shown = score_table({"base": LOW, "tuned [x]": HIGH}, {"constant": FLOOR})
    Console(file=stream, width=100, color_system=None).print(shown)
    lines = [line.split() for line in stream.getvalue().splitlines()]
    assert lines[0] == ["base", "tuned", "[x]", "constant"]
    assert ["BLEU", "↑", "1.00", "2.00", "3.00"] in lines
    assert ["word", "perplexity", "↓", "200.00", "40.00", "–"] in lines
    assert len(lines) == 1 + len(METRICS) - len(LOW.unmeasured)


def test_half_an_intervals_width_stands_behind_its_figure() -> None:
    stream = io.StringIO()
    shown = score_table({"base": LOW, "tuned": HIGH}, {"constant": FLOOR}, intervals={"tuned": {"bleu": (1.75, 2.5)}})
    Console(file=stream, width=100, color_system=None).print(shown)
    lines = [line.split() for line in stream.getvalue().splitlines()]
    assert lines[0] == ["base", "tuned", "95", "%", "constant"]
    assert ["BLEU", "↑", "1.00", "2.00", "±0.38", "3.00"] in lines
    assert ["F1", "↑", "12.00", "13.00", "13.00"] in lines
