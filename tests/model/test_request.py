"""What can be asked for, and what is refused."""

import math

import pytest

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
