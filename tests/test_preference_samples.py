"""Which of several sampled replies is the best and which the worst, in any language?"""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.evaluate.text.pairs import word_f1
from falconer.evaluate.text.words import words
from falconer.model.request import Decoding
from falconer.preference_samples import best_and_worst, sampling, worths
from falconer.records import Prediction

GOLD = "i like to ski in the snow ."
TEXTS = st.lists(
    st.lists(st.sampled_from(["ski", "snow", "a", "like", "!"]), max_size=5).map(" ".join), min_size=1, max_size=6
)


def row(text, gold=GOLD, others=()):
    return Prediction("d", 1, text, gold, (), ended=True, history=(), other_references=others)


def likeness(text, reference, language="en"):
    """F1 as an evaluation computes it, times BLEU's brevity penalty."""
    number, wanted = len(words(text, language)), len(words(reference, language))
    return word_f1(text, reference, language) * min(1.0, math.exp(1 - wanted / number)) if number else 0.0


@given(TEXTS, st.sampled_from([0.0, 0.25, 1.0]))
def test_a_sample_is_worth_its_likeness_to_gold_and_to_the_other_samples(texts, share):
    found = worths([row(text) for text in texts], "en", share)
    for place, text in enumerate(texts):
        others = [likeness(text, other) for at, other in enumerate(texts) if at != place]
        mean = sum(others) / len(others) if others else 0.0
        assert found[place] == pytest.approx(share * likeness(text, GOLD) + (1 - share) * mean)


@given(TEXTS)
def test_no_sample_is_worth_more_or_less_than_those_of_the_pair(texts):
    texts = [text for text in texts if text]
    found = best_and_worst([[row(text) for text in ["", *texts]]], "en", 0.25)
    values = worths([row(text) for text in texts], "en", 0.25) if texts else [0.0]
    if min(values) == max(values):
        assert found == []
    else:
        ((best, worst),) = found
        assert values[texts.index(best.prediction)] == max(values)
        assert values[texts.index(worst.prediction)] == min(values)


def test_gold_decides_alone_or_what_most_samples_say():
    texts = ["i ski in the snow", "i have two dogs", "i have two big dogs", "hi"]
    drawn = [[row(text) for text in texts]]
    ((by_gold, _),) = best_and_worst(drawn, "en", 1.0)
    ((by_samples, worst),) = best_and_worst(drawn, "en", 0.0)
    assert (by_gold.prediction, by_samples.prediction, worst.prediction) == (texts[0], texts[2], "hi")


def test_a_short_sample_is_worth_less_than_one_of_golds_length():
    assert worths([row("ski snow")], "en", 1.0) < worths([row("i would ski in the snow too now")], "en", 1.0)


def test_of_several_gold_replies_the_nearest_counts():
    values = worths([row("i have two dogs", others=("i have two dogs",)), row("i have two dogs")], "en", 1.0)
    assert values[0] == 100
    assert worths([row("i have two dogs")], "en", 1.0)[0] < 100


@pytest.mark.parametrize(
    ("language", "gold", "like", "unlike"),
    [
        ("zh", "我喜欢滑雪。", "我喜欢雪", "你好"), ("ja", "スキーが好きです。", "スキーです", "こんにちは"),
        ("ar", "أحب التزلج كثيرا", "أحب التزلج", "مرحبا"),
    ],
)  # fmt: skip
def test_likeness_is_that_of_the_language(language, gold, like, unlike):
    ((best, worst),) = best_and_worst([[row(unlike, gold), row(like, gold)]], language, 0.25)
    assert (best.prediction, worst.prediction) == (like, unlike)


def test_samples_are_drawn_from_the_models_own_distribution():
    asked = Decoding(max_new_tokens=9, num_beams=4, repetition_penalty=1.3, seed=3)
    assert sampling(asked) == Decoding(max_new_tokens=9, temperature=1.0, top_p=1.0, seed=3)
