"""Which of several sampled replies are the most and the least like gold, in any language?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.evaluate.text.pairs import word_f1
from falconer.model.request import Decoding
from falconer.preference_samples import most_and_least_like_gold, sampling
from falconer.records import Prediction


def row(text, gold="i like to ski in the snow .", name="d"):
    return Prediction(name, 1, text, gold, (), ended=True, history=())


@given(
    st.lists(st.lists(st.sampled_from(["ski", "snow", "a", "like"]), max_size=5).map(" ".join), min_size=1, max_size=6)
)
def test_no_sample_is_more_or_less_like_gold_than_those_of_the_pair(texts):
    found = most_and_least_like_gold([[row(text)] for text in texts], "en")
    likeness = [word_f1(text, row("").reference) for text in texts if text]
    if not likeness or min(likeness) == max(likeness):
        assert found == []
    else:
        ((most, least),) = found
        assert word_f1(most.prediction, most.reference) == max(likeness)
        assert word_f1(least.prediction, least.reference) == min(likeness)


@pytest.mark.parametrize(
    ("language", "gold", "like", "unlike"),
    [
        ("zh", "我喜欢滑雪。", "我喜欢雪", "你好"), ("ja", "スキーが好きです。", "スキーです", "こんにちは"),
        ("ar", "أحب التزلج كثيرا", "أحب التزلج", "مرحبا"),
    ],
)  # fmt: skip
def test_likeness_is_that_of_the_language(language, gold, like, unlike):
    ((most, least),) = most_and_least_like_gold([[row(unlike, gold)], [row(like, gold)]], language)
    assert (most.prediction, least.prediction) == (like, unlike)


def test_each_sample_has_a_seed_of_its_own_and_the_models_own_distribution():
    asked = Decoding(max_new_tokens=9, num_beams=4, repetition_penalty=1.3, seed=3)
    assert [sampling(asked, k) for k in (0, 1)] == [
        Decoding(max_new_tokens=9, temperature=1.0, top_p=1.0, seed=seed) for seed in (3, 4)
    ]
