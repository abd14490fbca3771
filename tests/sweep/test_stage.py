"""How large the parts of successive halving are, and what a setting's runs end with."""

import pytest

from falconer.sweep.plan import make_plan
from falconer.sweep.stage import in_words, stages, train_setting
from small_runs import silent
from swept import train_at_once


@pytest.mark.parametrize(
    ("num", "keep", "expected"),
    [
        (8, None, [None]),
        (8, 2, [(1, 4), (1, 2), None]),
        (9, 3, [(1, 9), (1, 3), None]),
        (3, 2, [(1, 2), None]),
        (2, 2, [None]),
        (1, 4, [None]),
    ],
)
def test_stages(num, keep, expected):
    assert stages(num, keep) == expected


def test_parts_in_words():
    assert in_words((1, 9)) == "1/9 of the training" and in_words(None) == ""


def test_a_setting_with_some_seeds_and_a_part_of_the_training(tmp_path, monkeypatch):
    trained = train_at_once(monkeypatch, lambda config: config.train.seed / 100)
    plan = make_plan(
        None, ["lora.r=4,13", "train.epochs=4"], num_seeds=3, by="word_ppl", keep=None, resamples=100
    )  # fmt: skip
    found = train_setting(tmp_path, plan, plan.settings[0], plan.seeds[:2], (1, 4), ["[1]", "[2]"], silent())
    assert trained == [(4, 1, 17), (4, 1, 18)] and len(found.values) == 2 and found.values[0] < found.values[1]
    assert found.runs == ("setting-01-seed-17-part-1-of-4", "setting-01-seed-18-part-1-of-4")
    # All seeds are tried, and the first failure is told.
    why = train_setting(tmp_path, plan, plan.settings[1], plan.seeds[:2], None, ["[1]", "[2]"], silent())
    assert why == "setting-02-seed-17: no luck" and len(trained) == 4
