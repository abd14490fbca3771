"""What Optuna proposes and stops, asked as a search asks it."""

import math
from importlib.util import find_spec

import pytest

from falconer.errors import FalconerError
from falconer.sweep import proposals
from falconer.sweep.plan import make_plan
from falconer.sweep.proposals import Proposals, check_optuna, optuna_version

needs_optuna = pytest.mark.skipif(find_spec("optuna") is None, reason="optuna is not installed")


def plan(*overrides, by="word_ppl", keep=None, num_trials=24, seed=17):
    given = [*overrides, f"train.seed={seed}"]
    return make_plan(None, given, num_seeds=2, by=by, keep=keep, resamples=100, num_trials=num_trials)


SPACE = ["train.learning_rate=1e-4..1e-2:log", "lora.r=8..64:8", "lora.targets=all-linear", "lora.targets=dense"]


def loss(values):
    """Smallest, 0, at a rate of 1e-3 and rank 32 in all layers."""
    rate = (math.log10(float(values["train.learning_rate"])) + 3) ** 2
    return rate + (int(values["lora.r"]) - 32) ** 2 / 1000 + 0.3 * (values["lora.targets"] != "all-linear")


def carry_out(given, num, known=(), sign=1):
    """Return the (values, part at which it was stopped or 3) of each trial; `known` are told, not proposed."""
    made, ended = Proposals(given), []
    for number in range(1, num + 1):
        values = known[number - 1] if number <= len(known) else made.propose(number)
        trial = made.begin(values)
        for part in (1, 2) if given.keep else ():
            if trial.is_stopped_by(sign * (loss(values) + 0.01 / part)):
                trial.stop()
                ended.append((values, part))
                break
        else:
            trial.finish(sign * loss(values))
            ended.append((values, 3))
    return ended


@needs_optuna
@pytest.mark.parametrize("keep", [None, 3])
def test_a_search_that_is_continued_proposes_what_it_would_have_proposed(keep):
    given = plan(*SPACE, keep=keep)
    whole = carry_out(given, 24)
    assert carry_out(given, 24, [values for values, _ in whole[:15]]) == whole
    assert carry_out(plan(*SPACE, keep=keep, seed=18), 24)[0] != whole[0]
    assert len({tuple(values.values()) for values, _ in whole}) == 24
    for values, _ in whole:
        assert 1e-4 <= float(values["train.learning_rate"]) <= 1e-2
        assert int(values["lora.r"]) in range(8, 65, 8) and values["lora.targets"] in ("all-linear", "dense")


@needs_optuna
def test_later_trials_are_better_than_those_by_chance():
    first, last = [], []
    for seed in range(5):
        found = [loss(values) for values, _ in carry_out(plan(*SPACE, seed=seed), 24)]
        first.append(sum(found[:10]) / 10)
        last.append(sum(found[14:]) / 10)
    assert sum(last) < 0.6 * sum(first)


@needs_optuna
def test_successive_halving_lets_about_one_in_three_go_on():
    found = carry_out(plan(*SPACE, keep=3, num_trials=60), 60)
    ended = [part for _, part in found]
    num_second, num_full = sum(part > 1 for part in ended), sum(part > 2 for part in ended)
    assert 15 <= num_second <= 40 and 3 <= num_full <= 25 and num_full < num_second
    assert min(found, key=lambda one: loss(one[0]))[1] == 3, "the best of all is never stopped"


@needs_optuna
def test_figures_of_which_higher_is_better():
    higher = carry_out(plan(*SPACE, keep=3, by="f1"), 24, sign=-1)
    assert higher == carry_out(plan(*SPACE, keep=3), 24)


@needs_optuna
def test_no_setting_twice_even_where_few_are_left():
    given = plan("lora.r=1..6", num_trials=5)
    assert len({values["lora.r"] for values, _ in carry_out_ranks(given, 5)}) == 5


def carry_out_ranks(given, num):
    made = Proposals(given)
    for number in range(1, num + 1):
        values = made.propose(number)
        made.begin(values).finish(float(values["lora.r"]))
        yield values, 3


@needs_optuna
def test_nothing_is_learned_from_a_failure():
    given = plan("lora.r=1..1000", num_trials=15)
    one, other = Proposals(given), Proposals(given)
    one.begin({"lora.r": "500"}).fail()
    for number in range(1, 14):
        values = one.propose(number)
        assert values == other.propose(number)
        for made in (one, other):
            made.begin(values).finish(float(values["lora.r"]))


def test_optuna_is_missing(monkeypatch):
    monkeypatch.setattr(proposals, "find_spec", lambda name: None)
    with pytest.raises(FalconerError, match="A search needs Optuna, which is not installed. Run: pip install 'optuna"):
        check_optuna()


@needs_optuna
def test_the_version_is_known():
    check_optuna()
    assert optuna_version().split(".")[0] == "5"
