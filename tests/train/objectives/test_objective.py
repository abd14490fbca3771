"""Is a step's loss the weighted sum of its terms, each divided by its own count?"""

import pytest
import torch

from falconer.ranking_config import RankingConfig
from falconer.train.objectives.lm import LmObjective
from falconer.train.objectives.objective import figures_of, loss_of
from falconer.train.objectives.preference import PreferenceObjective, Settings
from falconer.train.objectives.ranking import RankedSplit, RankingObjective


def test_each_term_is_divided_by_its_count_and_weighted():
    sums = torch.tensor([6.0, 5.0, 100.0], requires_grad=True)
    loss = loss_of(sums, (3, 2, 7), (1.0, 0.5, 0.0))
    assert float(loss.detach()) == pytest.approx(6 / 3 + 0.5 * 5 / 2)
    loss.backward()
    assert sums.grad.tolist() == pytest.approx([1 / 3, 0.25, 0.0])


def test_a_term_without_items_in_the_step_adds_nothing():
    assert float(loss_of(torch.tensor([6.0, 0.0]), (3, 0), (1.0, 1.0))) == 2.0


def test_figures_are_the_terms_by_name_and_their_weighted_sum():
    objective = PreferenceObjective([], [], Settings(1.0, False, 0.5), 0)
    figures = figures_of(objective, [0.7, 2.0, 0.1, 60.0], [4] * 4)
    expected = {"preference_loss": 0.7, "sft_loss": 2.0, "margin": 0.1, "accuracy": 60.0}
    assert figures == {"loss": pytest.approx(1.7), **expected}
    assert figures_of(LmObjective([], [], 0), [2.5], [9]) == {"loss": 2.5}


def test_figures_without_a_count_are_left_out_and_the_loss_of_the_language_model_is_the_loss():
    objective = RankingObjective(RankedSplit([], None), RankedSplit([], None), RankingConfig(weight=2), 0)
    assert figures_of(objective, [2.5, 0.0, 0.0], [9, 0, 0]) == {"loss": 2.5}
    found = figures_of(objective, [2.5, 1.5, 0.75], [9, 4, 4])
    assert found == {"loss": 2.5, "ranking_loss": 1.5, "ranking_accuracy": 0.75}
