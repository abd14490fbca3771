"""What is the learning rate at each step?"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup

from falconer.train.schedule import learning_rate


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
