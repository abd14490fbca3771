"""What is counted in each reply, what is left out, and in how many dialogues it was measured."""

from dataclasses import replace

import numpy as np
import pytest

from falconer.evaluate.text.counts import dialogue_numbers, likelihood_statistics, ngram_order, statistics_of
from falconer.records import Likelihood, Prediction, Ranks

ROWS = [
    Prediction("a", 1, "i ski", "i ski a lot", ("i ski .",), ended=True, ranks=Ranks(1, 2, 4)),
    Prediction("a", 3, "well", "well yes", ("i ski .",), ended=False),
    Prediction("b", 1, "", "hi", ended=True),
]


def test_each_column_by_hand() -> None:
    counted = statistics_of(ROWS)
    assert counted.columns["words"].tolist() == [2, 1, 0]
    assert counted.columns["ended"].tolist() == [1, 0, 1]
    assert counted.columns["persona"].tolist() == [[1, 1], [0, 1], [0, 0]]
    assert counted.columns["ranks"].tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert counted.columns["f1"] == pytest.approx([100 * 2 * 2 / 5, 100 * 2 / 3, 0])
    assert not {"bigrams", "likelihood", "counted", "nli"} & set(counted.columns)
    assert counted.dialogues.tolist() == [0, 0, 1] and counted.num_dialogues == 2


def test_how_a_reply_ended_counts_only_if_every_row_tells() -> None:
    assert "ended" not in statistics_of([*ROWS, replace(ROWS[0], ended=None)]).columns


def test_columns_of_few_dialogues_are_left_out() -> None:
    counted = statistics_of(ROWS)
    assert [counted.num_measured(name) for name in ("ranks", "persona", "likelihood")] == [1, 1, 0]
    assert set(counted.columns) - set(counted.without_few(2).columns) == {"ranks", "persona"}
    assert set(counted.without_few(1).columns) == set(counted.columns)


def test_figures_that_are_withheld_leave_no_counts() -> None:
    counted = statistics_of(ROWS)
    assert set(counted.columns) - set(counted.without({"mean_words", "persona_use", "f1"}).columns) == {
        "words", "persona", "f1",
    }  # fmt: skip
    assert ngram_order(counted.columns["bleu"]) == 4
    assert ngram_order(counted.without({"bleu"}).columns["bleu"]) == 2
    assert ngram_order(counted.without({"bleu", "bleu_2"}).columns["bleu"]) == 0


def test_selected_rows_number_their_dialogues_anew() -> None:
    chosen = statistics_of(ROWS).select(np.array([False, False, True]))
    assert chosen.dialogues.tolist() == [0] and chosen.columns["words"].tolist() == [0]


def test_likelihoods_that_are_missing_count_nothing() -> None:
    counted = likelihood_statistics([Likelihood(3.0, 2.0, 4, 2, 9), None], ["x", "y"])
    assert counted.columns["likelihood"].tolist() == [[3, 2, 4, 2, 9], [0, 0, 0, 0, 0]]
    assert counted.num_measured("likelihood") == 1 and counted.num_dialogues == 2


def test_dialogues_are_numbered_as_they_appear() -> None:
    assert dialogue_numbers(["b", "a", "b", "c"]).tolist() == [0, 1, 0, 2]
