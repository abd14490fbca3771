"""Figures are functions of sums: what a library makes of a set, and the same for a resample as for its rows."""

import numpy as np
import pytest

from falconer.evaluate.text.counts import statistics_of
from falconer.evaluate.text.figures import bleu, brevity_penalty, chrf, figures
from falconer.evaluate.text.metrics import score_predictions
from falconer.records import Prediction


def test_bleu_and_chrf_are_sacrebleus(rows: list[Prediction]) -> None:
    import sacrebleu

    sums = statistics_of(rows).sums()
    replies, golds = [row.prediction for row in rows], [[row.reference for row in rows]]
    assert bleu(sums["bleu"]) == pytest.approx(sacrebleu.corpus_bleu(replies, golds, lowercase=True).score)
    expected = sacrebleu.corpus_chrf([text.lower() for text in replies], [[text.lower() for text in golds[0]]]).score
    assert chrf(sums["chrf"]) == pytest.approx(expected)


def test_a_weighted_sum_has_the_figures_of_the_rows_that_it_repeats(rows: list[Prediction]) -> None:
    statistics = statistics_of(rows)
    weights = np.arange(len(rows)) % 3
    drawn = figures({name: np.tensordot(weights, column, axes=1) for name, column in statistics.columns.items()})
    repeated = score_predictions([row for row, times in zip(rows, weights, strict=True) for _ in range(times)])
    for key in ("bleu", "bleu_2", "chrf", "rouge_l", "f1", "mean_words", "persona_use", "brevity_penalty"):
        assert float(drawn[key]) == pytest.approx(getattr(repeated, key)), key


def test_many_resamples_are_computed_at_once(rows: list[Prediction]) -> None:
    sums = statistics_of(rows).sums()
    both = figures({name: np.stack([value, 2 * value]) for name, value in sums.items()})
    assert all(value.shape == (2,) and value[0] == pytest.approx(value[1]) for value in both.values())


def test_what_nothing_was_measured_for_is_not_a_number() -> None:
    found = figures({"replies": np.array(0.0), "f1": np.array(0.0), "likelihood": np.zeros(5), "ranks": np.zeros(3)})
    assert np.isnan([found[key] for key in ("f1", "word_ppl", "token_ppl", "bits_per_char", "hits_1")]).all()
    assert "bleu" not in found and brevity_penalty(np.array([0.0, 5.0])) == 0
