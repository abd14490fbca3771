"""The answer of a sweep, on made-up measurements whose truth is known."""

import random

import pytest

from falconer.evaluate.measure import Evaluated
from falconer.records import Likelihood, Prediction
from falconer.sweep.answer import answer, as_markdown, failed_outcome, left_outcome, measured
from falconer.sweep.folder import run_name, write_measured
from falconer.sweep.plan import make_plan

SEEDS = 2


@pytest.fixture
def plan():
    return make_plan(None, ["lora.r=4,8,16"], num_seeds=SEEDS, by="word_ppl", keep=None, resamples=200)


def write(folder, name, shift, noise_seed, num=40):
    """Write a run whose negative log-likelihoods lie `shift` nats a word above common ones."""
    common, noise = random.Random(1), random.Random(noise_seed)
    rows, ids, likelihoods = [], [], []
    for number in range(num):
        nll = 20 + 5 * common.random() + 5 * shift + 0.05 * noise.random()
        likelihoods.append(Likelihood(nll + 1, nll, 7, 5, 22))
        rows.append(
            Prediction(f"d{number}", 1, "i like my two dogs", "i like cats and dogs", likelihood=likelihoods[-1])
        )
        ids.append(f"d{number}")
    write_measured(folder, name, Evaluated(rows, likelihoods, ids), f"{num} validation dialogues (given)", "en")


def found(folder, plan, shifts, num=40):
    for setting in plan.settings:
        for seed, shift in zip(plan.seeds, shifts[setting.number - 1], strict=True):
            write(folder, run_name(setting.number, seed), shift, 100 * setting.number + seed, num)
    return [
        measured(folder, one, [run_name(one.number, seed) for seed in plan.seeds], plan.by) for one in plan.settings
    ]


def test_the_best_is_first_and_worse_ones_are_told(tmp_path, plan):
    result = answer(plan, found(tmp_path, plan, [(0.5, 0.4), (0.0, 0.0), (0.3, 0.3)]), [])
    assert [one.setting.values["lora.r"] for one in result.outcomes] == ["8", "16", "4"]
    assert [one.verdict for one in result.outcomes] == ["best", "worse, with 2 of 2 seeds", "worse, with 2 of 2 seeds"]
    best, second, _ = result.outcomes
    assert best.tests == () and second.tests[0].metric == "word_ppl" and second.tests[0].low > 0
    assert second.tests[0].p_holm == pytest.approx(2 / 201)  # of two tests, the smallest possible p each
    # exp(nats a word): by hand, of each seed alone
    assert second.values[0] == pytest.approx(best.values[0] * 2.718281828**0.3, rel=0.01)
    text = "\n".join(as_markdown(result))
    assert "Best by word perplexity: lora.r=8. All other settings that were trained to the end are worse." in text
    assert "Measured on 40 validation dialogues (given)" in text and "No test dialogue was read" in text


def test_no_difference_is_an_answer(tmp_path, plan):
    result = answer(plan, found(tmp_path, plan, [(0.0, 0.0), (0.0, 0.0), (0.3, 0.3)]), [])
    assert result.outcomes[1].verdict.startswith("no difference shown; worse with")
    assert result.outcomes[2].verdict == "worse, with 2 of 2 seeds"
    assert "No difference was shown between it and 1 of the 2 others." in as_markdown(result)[-1]


def test_seeds_that_disagree_show_no_difference(tmp_path, plan):
    """The replies of all seeds together are significantly worse, but with one of the seeds they are better."""
    result = answer(plan, found(tmp_path, plan, [(0.0, 0.2), (0.5, -0.1), (0.9, 0.9)]), [])
    second = result.outcomes[1]
    assert second.setting.values["lora.r"] == "8" and second.tests[0].p_holm < 0.05
    assert second.verdict == "no difference shown; worse with 1 of 2 seeds"


def test_few_dialogues_are_not_tested(tmp_path, plan):
    result = answer(plan, found(tmp_path, plan, [(0.0, 0.0), (0.5, 0.5), (0.9, 0.9)], num=10), [])
    assert [one.verdict for one in result.outcomes] == ["best", "not tested", "not tested"]


def test_failed_and_stopped_settings_are_in_the_table(tmp_path, plan):
    first, second, _ = found(tmp_path, plan, [(0.0, 0.0), (0.5, 0.5), (0.9, 0.9)])
    others = [left_outcome(second, "stopped after 1/2 of the training")]
    others.append(failed_outcome(plan.settings[2], "out of memory | CUDA"))
    result = answer(plan, [first], others)
    assert [one.verdict for one in result.outcomes] == [
        "best", "stopped after 1/2 of the training", "failed: out of memory | CUDA"
    ]  # fmt: skip
    lines = as_markdown(result)
    assert sum("out of memory / CUDA" in line for line in lines) == 1
    assert "There is no other setting to compare it with." in lines[-1]
    assert result.to_json()["settings"][2]["settings"] == {"lora.r": "16"}


def test_nothing_at_all(plan):
    failed = [failed_outcome(setting, "x") for setting in plan.settings]
    assert as_markdown(answer(plan, [], failed))[-1].startswith("No setting was trained")
