"""Steps and micro-batches: every dialogue once an epoch, within the budget, the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.data.batch import (
    MICRO_SLACK,
    check_batch,
    collate,
    micro_batches,
    padding_share,
    plan_epoch,
    split_by_tokens,
    split_evenly,
)
from falconer.errors import FalconerError
from falconer.records import Batch, Example

lengths_lists = st.lists(st.integers(2, 300), min_size=1, max_size=200)


@given(lengths_lists, st.integers(1, 2000), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_takes_every_dialogue_once_within_the_budget(lengths, budget, seed, epoch):
    steps = plan_epoch(lengths, budget, seed, epoch)
    assert sorted(index for step in steps for index in step) == list(range(len(lengths)))
    assert all(len(step) == 1 or len(step) * max(lengths[index] for index in step) <= budget for step in steps)
    assert steps == plan_epoch(lengths, budget, seed, epoch)


def test_epochs_and_seeds_differ():
    lengths = list(range(10, 110))
    plans = [plan_epoch(lengths, 500, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert plans[0] != plans[1] and plans[0] != plans[2]


@given(lengths_lists, st.integers(1, 1000), st.integers(1, 5))
def test_ranks_share_a_step_without_overlap(lengths, budget, num_ranks):
    step = list(range(len(lengths)))
    shares = [micro_batches(step, lengths, budget, rank, num_ranks) for rank in range(num_ranks)]
    assert sorted(index for share in shares for group in share for index in group) == step


@given(lengths_lists, st.integers(1, 2000), st.booleans())
def test_an_even_split_has_no_more_groups_and_a_largest_one_as_small_as_can_be(lengths, budget, is_sorted):
    lengths = sorted(lengths) if is_sorted else lengths
    groups = split_evenly(range(len(lengths)), lengths, budget)
    assert [index for group in groups for index in group] == list(range(len(lengths)))
    sizes = [len(group) * max(lengths[index] for index in group) for group in groups]
    assert all(size <= budget or len(group) == 1 for size, group in zip(sizes, groups, strict=True))
    assert len(groups) == len(split_by_tokens(range(len(lengths)), lengths, budget))
    # With any budget below the size of its largest group of several examples, more groups are needed.
    largest = max((size for size, group in zip(sizes, groups, strict=True) if len(group) > 1), default=0)
    if largest:
        assert len(split_by_tokens(range(len(lengths)), lengths, largest - 1)) > len(groups)


@given(lengths_lists, st.integers(1, 2000), st.integers(1, 5))
def test_a_micro_batch_exceeds_its_budget_by_the_slack_at_most(lengths, budget, num_ranks):
    step = list(range(len(lengths)))
    for rank in range(num_ranks):
        groups = micro_batches(step, lengths, budget, rank, num_ranks)
        assert all(
            len(group) == 1 or len(group) * max(lengths[index] for index in group) <= budget * (1 + MICRO_SLACK)
            for group in groups
        )


def test_an_odd_dialogue_is_no_micro_batch_of_its_own():
    # 55 dialogues of 297 tokens fill a step of 16,384: 27 and 27 are 8,019 each, and one would be left.
    lengths = [297] * 55
    assert [len(group) for group in micro_batches(range(55), lengths, 8192, 0, 1)] == [28, 27]
    assert [len(group) for rank in (0, 1) for group in micro_batches(range(55), lengths, 8192, rank, 2)] == [28, 27]


def test_length_buckets_waste_little():
    rng = np.random.default_rng(0)
    lengths = rng.normal(250, 60, 2000).clip(40, 500).astype(int).tolist()
    assert padding_share(lengths, plan_epoch(lengths, 8192, 0, 0), multiple=1) < 0.04
    assert padding_share(lengths, split_by_tokens(list(range(2000)), lengths, 8192), multiple=1) > 0.2


def example(length: int, targets: slice = slice(1, None)) -> Example:
    mask = np.zeros(length, bool)
    mask[targets] = True
    return Example(np.arange(1, length + 1, dtype=np.int32), mask, f"d{length}", (1,), (length,), (0,))


def test_collate_pads_on_the_right_and_rounds_up():
    batch = collate([example(3), example(9)], pad_id=99, multiple=8)
    assert batch.ids.shape == (2, 16)
    assert batch.ids[0].tolist() == [1, 2, 3] + [99] * 13
    assert batch.lengths.tolist() == [3, 9]
    assert batch.num_targets == 2 + 8
    assert not batch.is_target[0, 3:].any()


def test_a_loss_on_a_pad_or_on_a_first_token_is_refused():
    good = collate([example(3), example(9)], pad_id=0)
    on_pad = good.is_target.copy()
    on_pad[0, 5] = True
    with pytest.raises(FalconerError, match="mask includes padding or the first token.*d3"):
        check_batch(Batch(good.ids, on_pad, good.lengths, good.dialogue_ids))
    with pytest.raises(FalconerError, match="first token"):
        collate([example(4, slice(0, None))], pad_id=0)
