"""Failures are facts about texts: each is found where it is, and nowhere else."""

from dataclasses import replace

import pytest

from falconer.evaluate.text.failures import FAILURES, failure_rates, find_failures
from falconer.evaluate.text.history import alternating
from falconer.records import Prediction, Turn

PERSONA = ("I have two dogs.", "my hair is red .")
# The partner speaks first and last.
HISTORY = alternating(("hi , what do you do ?", "i am a nurse .", "i like trains ."))


def row(prediction: str, **changes: object) -> Prediction:
    fixed = Prediction("d1", 3, prediction, "me too , trains are fun .", PERSONA, HISTORY, ended=True)
    return replace(fixed, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("Me too! Trains?", set()),
        ("", {"empty"}),
        (" \n", {"empty"}),
        ("\u200b \u2060", {"empty"}),
        ("I am a nurse", {"own_turn", "nothing_shared"}),
        ("i like trains!", {"partner_turn"}),
        ("Hi, what do you do", {"partner_turn", "nothing_shared"}),
        ("i have two dogs", {"persona_line", "nothing_shared"}),
        ("trains are fun and trains are fun", {"phrase"}),
        ("trains are trains are", set()),  # the two do not make three words twice
        ("fun trains fun trains fun", {"phrase"}),  # overlapping: "fun trains fun" twice
        ("i'm a cook . i'm a fan of trains", set()),  # "i'm a" is two words
        ("?!", {"nothing_shared"}),
        ("nobody knows", {"nothing_shared"}),
    ],
)
def test_each_failure_is_found_where_it_is(prediction: str, expected: set[str]) -> None:
    assert find_failures([row(prediction)]) == [expected]


def test_a_reply_that_was_cut_did_not_end() -> None:
    rows = [row("me too", ended=False), row("", ended=False), row("too", ended=None)]
    assert find_failures(rows) == [{"not_ended"}, {"not_ended", "empty"}, frozenset()]


def test_an_own_turn_and_a_partner_turn_are_told_apart_in_any_history() -> None:
    opened_by_self = alternating(("hello trains", "good day trains"))
    assert find_failures([row("hello trains", history=opened_by_self)]) == [{"own_turn"}]
    assert find_failures([row("good day trains", history=opened_by_self)]) == [{"partner_turn"}]
    assert find_failures([row("trains", history=())]) == [frozenset()]
    twice_self = (Turn("partner", "hello trains"), Turn("self", "good day trains"), Turn("self", "bye trains"))
    assert find_failures([row("good day trains", history=twice_self)]) == [{"own_turn"}]
    assert find_failures([row("hello trains", history=twice_self)]) == [{"partner_turn"}]


def test_a_stock_reply_is_given_to_several_contexts() -> None:
    rows = [row("Trains are fun."), row("trains are fun"), row("trains")]
    assert ["stock" in each for each in find_failures(rows)] == [True, True, False]
    assert find_failures([row(""), row("")]) == [{"empty"}, {"empty"}]  # silence is no copy of silence


def test_rates_stand_beside_golds_own() -> None:
    before = [row("i am a nurse", ended=False), row("", ended=False), row("me too"), row("trains", ended=True)]
    after = [replace(each, prediction=each.reference, ended=True) for each in before]
    rates = {rate.failure.key: rate.shares for rate in failure_rates({"base": before, "tuned": after})}
    assert rates["not_ended"] == {"base": 50, "tuned": 0, "gold": None}
    assert rates["empty"] == {"base": 25, "tuned": 0, "gold": 0}
    assert rates["own_turn"] == {"base": 25, "tuned": 0, "gold": 0}
    assert rates["stock"] == {"base": 0, "tuned": 100, "gold": 100}
    assert set(rates) < {failure.key for failure in FAILURES}
    assert "phrase" not in rates  # nobody's


def test_how_it_ended_is_not_measured_where_no_row_says_so() -> None:
    rates = {rate.failure.key: rate.shares for rate in failure_rates({"tuned": [row("", ended=None)]})}
    assert "not_ended" not in rates
    assert rates["empty"] == {"tuned": 100, "gold": 0}
    assert failure_rates({}) == []
