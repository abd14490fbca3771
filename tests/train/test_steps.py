"""From epochs to steps and micro-batches: who is in which, and how often a run validates."""

import pytest

from falconer.config import load
from falconer.train.steps import Step, plan_steps, validation_interval

LENGTHS = [20 + 7 * (number % 13) for number in range(60)]


def plan(*overrides):
    return plan_steps(LENGTHS, load(None, ["train.step_tokens=300", *overrides]).train)


def per_epoch(found):
    return {epoch: [step for step in found if step.epoch == epoch] for epoch in dict.fromkeys(s.epoch for s in found)}


def test_each_epoch_shows_each_dialogue_once_in_an_order_of_its_own():
    epochs = per_epoch(plan("train.epochs=3"))
    assert list(epochs) == [0, 1, 2]
    for steps in epochs.values():
        assert sorted(index for step in steps for index in step.dialogues) == list(range(60))
    orders = [[step.dialogues for step in steps] for steps in epochs.values()]
    assert orders[0] != orders[1] != orders[2]


def test_positions_count_within_their_epoch():
    for epoch, steps in per_epoch(found := plan("train.epochs=2")).items():
        assert [step.position for step in found if step.epoch == epoch] == list(range(len(steps)))


def test_a_part_of_an_epoch_is_its_beginning():
    whole = plan("train.epochs=2")
    part = plan("train.epochs=1.5")
    assert part == whole[: len(part)]
    first = len(per_epoch(whole)[0])
    assert len(part) == first + round(0.5 * len(per_epoch(whole)[1]))
    assert len(plan("train.epochs=0.001")) == 1


def test_max_steps_cuts_the_plan():
    assert plan("train.epochs=2", "train.max_steps=7") == plan("train.epochs=2")[:7]
    assert plan("train.epochs=1", "train.max_steps=1000") == plan("train.epochs=1")


def test_the_seed_decides_the_order_and_micro_batches_do_not():
    assert plan("train.seed=1") == plan("train.seed=1", "train.micro_tokens=64") != plan("train.seed=2")


@pytest.mark.parametrize(
    ("num_steps", "epochs", "overrides", "every"),
    [
        (40, 1, (), 10),
        (43, 1, (), 11),  # a remainder is no reason for one more validation
        (80, 2, (), 10),
        (3, 0.05, (), 3),
        (40, 1, ("train.validate_every=7",), 7),
    ],
)
def test_four_validations_an_epoch_where_nothing_is_said(num_steps, epochs, overrides, every):
    found = [Step(0, position, tuple(range(10))) for position in range(num_steps)]
    assert validation_interval(found, round(num_steps * 10 / epochs), load(None, overrides).train) == every
