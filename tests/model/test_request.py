"""What can be asked for, and what is refused."""

import math

import pytest

from falconer.decoding_limits import SCOPES
from falconer.model.request import Decoding, Joining, Request, Writing


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1.0}, {"temperature": math.nan}, {"top_k": -1}, {"top_p": -0.1}, {"repetition_penalty": 0}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="are at least 0"):
        Decoding(**wrong)


@pytest.mark.parametrize("num", [-1, 21])
def test_more_than_are_kept_can_not_be_asked_for(num):
    with pytest.raises(ValueError, match="num_logprobs is 0 to 20"):
        Decoding(num_logprobs=num)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"min_p": 1.1}, "min_p is 0 to 1"), ({"min_p": math.nan}, "min_p is 0 to 1"),
        ({"no_repeat_ngram_size": 17}, "no_repeat_ngram_size 0 to 16"), ({"num_beams": 0}, "num_beams is 1 to 16"),
        ({"length_penalty": math.inf}, "length_penalty finite"),
        ({"num_beams": 2, "temperature": 0.5}, "beam search is for temperature 0"),
        ({"num_beams": 2, "num_logprobs": 0}, "beam search is for temperature 0, without log-probabilities"),
    ],
)  # fmt: skip
def test_what_can_not_be_done_is_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        Decoding(**wrong)


@pytest.mark.parametrize("wrong", [[(0, 4)], [(2, 1)], [(1, 2), (2, 3)], [(2, 3), (0, 1)], [(-1, 1)]])
def test_own_turns_are_parts_of_the_prompt(wrong):
    with pytest.raises(ValueError, match="own_turns are parts of the prompt"):
        Request([1, 2, 3], own_turns=wrong)
    request = Request([1, 2, 3, 4], own_turns=[(0, 1), (2, 4)])
    assert [request.within(scope) for scope in SCOPES] == [[], [[1], [3, 4]], [[1, 2, 3, 4]]]


def test_a_request_asks_for_something_behind_something():
    with pytest.raises(ValueError, match="at least one token"):
        Request([])
    with pytest.raises(ValueError, match="at least one token"):
        Request([1], Decoding(max_new_tokens=0))
    assert Request([1, 2], Decoding(5)).num_tokens == 7


def test_a_reply_knows_its_request():
    request = Request([1, 2])
    assert Writing(Joining(request, "ski"), []).request is request


def test_how_tokens_are_chosen_is_said_in_words():
    assert str(Decoding()) == "greedy, at most 32 tokens"
    sampled = str(Decoding(temperature=0.7, repetition_penalty=1.1))
    assert sampled == "temperature 0.7, top-p 0.9, seed 17, repetition penalty 1.1, at most 32 tokens"
    own = Decoding(
        9, 0.7, min_p=0.1, repetition_penalty=1.1, repetition_penalty_scope="own", no_repeat_ngram_size=3,
        no_repeat_ngram_scope="prompt",
    )  # fmt: skip
    assert str(own) == (
        "temperature 0.7, top-p 0.9, min-p 0.1, seed 17, repetition penalty 1.1 within the reply and own earlier "
        "turns, no repeated 3-gram within prompt and reply, at most 9 tokens"
    )
    assert str(Decoding(num_beams=4)) == "beam search with 4 beams, length penalty 1.0, at most 32 tokens"
