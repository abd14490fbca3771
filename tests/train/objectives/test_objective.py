"""Is a step's loss the weighted sum of its terms, each divided by its own count?"""

import pytest
import torch

from falconer.train.objectives.objective import loss_of


def test_each_term_is_divided_by_its_count_and_weighted():
    sums = torch.tensor([6.0, 5.0, 100.0], requires_grad=True)
    loss = loss_of(sums, (3, 2, 7), (1.0, 0.5, 0.0))
    assert float(loss.detach()) == pytest.approx(6 / 3 + 0.5 * 5 / 2)
    loss.backward()
    assert sums.grad.tolist() == pytest.approx([1 / 3, 0.25, 0.0])


def test_a_term_without_items_in_the_step_adds_nothing():
    assert float(loss_of(torch.tensor([6.0, 0.0]), (3, 0), (1.0, 1.0))) == 2.0
