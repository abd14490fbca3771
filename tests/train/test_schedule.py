"""What is the learning rate at each step?"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup

from falconer.train.schedule import learning_rate, peak_for


def test_it_rises_to_the_peak_then_falls_along_a_cosine():
    rates = [learning_rate(step, 8, 4, 1.0) for step in range(8)]
    half = math.sqrt(0.5) / 2
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 0.5 + half, 0.5, 0.5 - half])


def test_without_warmup_it_is_the_cosine_of_transformers():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=3e-4)
    scheduler = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=0, num_training_steps=20)
    for step in range(20):
        assert learning_rate(step, 20, 0, 3e-4) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


@given(st.integers(1, 500), st.floats(0, 0.99), st.floats(1e-6, 1))
def test_every_step_learns_and_none_exceeds_the_peak(num_steps, warmup_share, peak):
    warmup_steps = round(warmup_share * num_steps)
    rates = [learning_rate(step, num_steps, warmup_steps, peak) for step in range(num_steps)]
    assert all(0 < rate <= peak * (1 + 1e-12) for rate in rates)
    assert rates[:warmup_steps] == sorted(rates[:warmup_steps])
    assert rates[warmup_steps:] == sorted(rates[warmup_steps:], reverse=True)


@pytest.mark.parametrize(
    ("model", "num_parameters", "rate"),
    [
        ("a tiny one for tests", 100_000, 2e-3), ("falcon-mini", 17_665_920, 2e-3), ("Gemma-3-270M", 268_098_176, 7e-4),
        ("Pythia-410M", 405_334_016, 6e-4), ("Llama-3.2-1B", 1_235_814_400, 4e-4), ("Falcon-7B", 6_921_720_704, 2e-4),
        ("Falcon-40B", 41_303_293_952, 1e-4),
    ],
)  # fmt: skip
def test_a_peak_for_each_size(model, num_parameters, rate):
    assert peak_for(num_parameters) == rate


@given(st.integers(1, 10**12), st.integers(1, 10**12))
def test_a_larger_model_never_learns_faster(one, other):
    assert (peak_for(one) - peak_for(other)) * (one - other) <= 0 and peak_for(max(one, other)) > 0
