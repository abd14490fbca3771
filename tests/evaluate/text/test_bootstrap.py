"""Intervals and tests: resamples counted again from their texts, known distributions, corrections by hand."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falconer.evaluate.text.baselines import replies_in_place
from falconer.evaluate.text.bootstrap import bootstrap, corrected, differences, holm, intervals
from falconer.evaluate.text.counts import Statistics, statistics_of
from falconer.evaluate.text.figures import figures
from falconer.records import Likelihood, Prediction


def values(f1: list[float], dialogues: list[int] | None = None) -> Statistics:
    columns = {"replies": np.ones(len(f1)), "f1": np.array(f1, dtype=float)}
    return Statistics(columns, np.arange(len(f1)) if dialogues is None else np.array(dialogues))


@pytest.fixture(scope="module")
def counts(rows: list[Prediction]) -> Statistics:
    return statistics_of(rows)


def test_each_interval_contains_its_figure(counts: Statistics) -> None:
    found, bounds = figures(counts.sums()), intervals([counts])
    assert set(bounds) == set(found)
    for key, (low, high) in bounds.items():
        assert low < found[key] < high, key


def test_a_resample_is_the_figure_of_its_replies(rows: list[Prediction], counts: Statistics) -> None:
    """The first resample, redrawn with numpy and counted from its texts again."""
    ids = list(dict.fromkeys(row.dialogue_id for row in rows))
    drawn = np.random.default_rng(5).integers(len(ids), size=(3, len(ids)))[0]
    again = [row for index in drawn for row in rows if row.dialogue_id == ids[index]]
    expected = figures(statistics_of(again).sums())
    resampled = bootstrap(counts, resamples=3, seed=5)
    for key, value in expected.items():
        assert resampled[key][0] == pytest.approx(float(value)), key


def test_width_of_a_mean_is_that_of_the_normal_distribution() -> None:
    rng = np.random.default_rng(1)
    sample = rng.normal(50, 10, size=2000)
    low, high = intervals([values(list(sample))], resamples=4000)["f1"]
    assert (high - low) / 2 == pytest.approx(1.96 * sample.std() / 2000**0.5, rel=0.05)


def test_replies_of_one_dialogue_count_once() -> None:
    """Ten copies of each reply in its dialogue say no more than one: the interval is that of the dialogues."""
    alone = [float(number) for number in np.random.default_rng(2).normal(50, 10, size=200)]
    copied = [value for value in alone for _ in range(10)]
    grouped = [number for number in range(200) for _ in range(10)]
    assert intervals([values(copied, grouped)])["f1"] == pytest.approx(intervals([values(alone)])["f1"])
    naive = intervals([values(copied)])["f1"]
    assert naive[1] - naive[0] < 0.5 * (intervals([values(alone)])["f1"][1] - intervals([values(alone)])["f1"][0])


def test_the_seed_fixes_everything_and_blocks_change_nothing(
    counts: Statistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bootstrap(counts, resamples=50)
    monkeypatch.setattr("falconer.evaluate.text.bootstrap._BLOCK_SIZE", 7 * 27)
    for key, drawn in bootstrap(counts, resamples=50).items():
        np.testing.assert_allclose(drawn, whole[key])
    assert not np.array_equal(bootstrap(counts, resamples=50, seed=18)["f1"], whole["f1"])


def test_a_system_against_itself_is_no_difference(counts: Statistics) -> None:
    for test in differences([counts], [counts], ["bleu", "f1", "rouge_l"]):
        assert (test.difference, test.low, test.high, test.p) == (0, 0, 0, 1)


def test_a_clear_difference_has_the_smallest_p(rows: list[Prediction], counts: Statistics) -> None:
    constant = statistics_of(replies_in_place(rows, ["i am doing well . how are you ?"] * len(rows)))
    (test,) = differences([constant], [counts], ["bleu"])
    assert test.p == 1 / 1001
    assert test.difference == pytest.approx(5.3910 - 1.5539, abs=1e-4)
    assert 0 < test.low < test.difference < test.high
    (turned,) = differences([counts], [constant], ["bleu"])
    assert (turned.low, turned.high, turned.p) == (pytest.approx(-test.high), pytest.approx(-test.low), test.p)


def test_pairing_sees_what_two_intervals_do_not() -> None:
    base = [float(value) for value in np.random.default_rng(3).normal(50, 20, size=100)]
    better = [value + 1 for value in base]
    assert intervals([values(base)])["f1"][1] > intervals([values(better)])["f1"][0]
    (test,) = differences([values(base)], [values(better)], ["f1"])
    assert (test.low, test.high) == (pytest.approx(1), pytest.approx(1)) and test.p == 1 / 1001


def test_no_difference_is_found_about_one_time_in_twenty() -> None:
    rng = np.random.default_rng(4)
    found = 0
    for _ in range(200):
        first, second = rng.normal(size=(2, 60))
        (test,) = differences([values(list(first))], [values(list(second))], ["f1"], resamples=200)
        found += test.p < 0.05
    assert 1 <= found <= 22


def test_perplexity_is_resampled_too() -> None:
    rng = random.Random(1)
    rows = []
    for number in range(60):
        nll = rng.uniform(20, 40)
        rows.append(Prediction(str(number // 3), 0, "a", "b c", likelihood=Likelihood(nll, nll - 2, 10, 9, 40)))
    counts = statistics_of(rows)
    low, high = intervals([counts])["word_ppl"]
    assert low < np.exp(sum(row.likelihood.nll_text for row in rows if row.likelihood) / (60 * 9)) < high


def test_only_what_was_measured_for_both_is_compared() -> None:
    """The baseline lacks the second row: e^2 against e^1 for the others, whatever the second would say."""

    def counts(nll: list[float | None]) -> Statistics:
        likelihoods = [None if value is None else Likelihood(value, value, 1, 1, 1) for value in nll]
        return statistics_of([Prediction(str(i), 0, "a", "b", likelihood=one) for i, one in enumerate(likelihoods)])

    (test,) = differences([counts([2, None, 2])], [counts([1, 50, 1])], ["word_ppl"], resamples=100)
    assert (test.baseline, test.system) == (pytest.approx(np.e**2), pytest.approx(np.e))
    assert test.low == test.high == pytest.approx(np.e - np.e**2)


def test_later_blocks_replace_earlier_figures() -> None:
    assert intervals([values([1, 2]), values([5, 5])])["f1"] == (5, 5)


def test_what_a_resample_does_not_measure_is_left_out() -> None:
    ranks = np.array([[1, 1, 1], [0, 0, 0], [0, 0, 0]], dtype=float)
    counts = Statistics({"replies": np.ones(3), "ranks": ranks}, np.arange(3))
    assert intervals([counts])["hits_1"] == (100, 100)
    assert "hits_1" not in intervals([Statistics({"replies": np.ones(3), "ranks": 0 * ranks}, np.arange(3))])


def test_holm_by_hand() -> None:
    """Holm (1979): 0.01 x 4, 0.02 x 3, then 0.03 x 2 = 0.06 as before, 0.04 x 1 raised to 0.06."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_lowers_and_keeps_the_order(p_values: list[float]) -> None:
    found = holm(p_values)
    assert all(one >= p and one <= 1 for one, p in zip(found, p_values, strict=True))
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    assert [found[index] for index in order] == sorted(found)


def test_all_reported_tests_are_corrected_together() -> None:
    base, better = values([float(i) for i in range(50)]), values([float(i) + 1 for i in range(50)])
    group = differences([base], [better], ["f1"])
    found = corrected({"x": group, "y": group})
    assert [test.p_holm for name in ("x", "y") for test in found[name]] == pytest.approx([2 / 1001] * 2)


@settings(max_examples=50)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.randoms())
def test_bounds_stay_within_the_data_and_ignore_the_order(some: list[float], rng: random.Random) -> None:
    low, high = intervals([values(some)], resamples=200)["f1"]
    assert min(some) - 1e-9 <= low <= high <= max(some) + 1e-9
    mixed = list(zip(some, range(len(some)), strict=True))
    rng.shuffle(mixed)
    again = intervals([values([v for v, _ in mixed], [d for _, d in mixed])], resamples=200)["f1"]
    assert again == pytest.approx([low, high])
