"""Do branches see what a row of their own would show them, and are the replies of a batch told apart?"""

from dataclasses import replace

import numpy as np
import pytest

from falconer.data.branches import Unit, collate_units
from falconer.data.distractors import Ranked
from falconer.records import Example


def example(length, *spans, first=20):
    is_target = np.zeros(length, dtype=bool)
    for start, end in spans:
        is_target[start:end] = True
    starts, ends = (tuple(span[at] for span in spans) for at in (0, 1))
    ids = np.arange(first, first + length, dtype=np.int32)
    return Example(ids, is_target, f"d{length}", starts, ends, tuple(range(len(spans))))


def ids(*numbers):
    return np.array(numbers, dtype=np.int32)


UNITS = (
    Unit(
        example(12, (3, 5), (8, 12)),
        (Ranked(0, (ids(1, 2, 11), ids(3, 11))), Ranked(1, (ids(4, 11), ids(5, 6, 7, 11)))),
    ),
    Unit(example(9, (5, 9), first=60), (Ranked(0, (ids(8, 11), ids(9, 11))),)),
    Unit(example(6, (2, 6), first=80), ()),
)


def seen(batch, row, place):
    """Return the ids that a token sees, in the order of their positions, and itself last."""
    tree = batch.tree
    found = [
        at
        for at in range(place + 1)
        if tree.branches[row, at] == tree.branches[row, place]
        or (tree.branches[row, at] == 0 and at < tree.visible[row, place])
    ]
    assert [tree.positions[row, at] for at in found] == list(range(len(found)))
    return batch.ids[row, found].tolist()


def test_a_branch_sees_its_prompt_and_itself():
    batch = collate_units(UNITS, 0, as_tree=True).batch
    rows = collate_units(UNITS, 0, as_tree=False).batch
    texts = {tuple(row[:length].tolist()) for row, length in zip(rows.ids, rows.lengths, strict=True)}
    for row, length in enumerate(batch.lengths):
        for place in range(length):
            text = tuple(seen(batch, row, place))
            assert any(text == whole[: len(text)] for whole in texts), text
    # The whole of every row is seen by some token.
    ends = {tuple(seen(batch, row, place)) for row, length in enumerate(batch.lengths) for place in range(length)}
    assert texts <= ends


def test_each_target_is_predicted_by_the_token_before_it_in_its_text():
    batch = collate_units(UNITS, 0, as_tree=True).batch
    for row, place in zip(*np.nonzero(batch.is_target), strict=True):
        before = batch.tree.predictors[row, place]
        assert seen(batch, row, place)[:-1] == seen(batch, row, before)


def with_partner(unit):
    """Return a unit whose targets are all tokens but its first one."""
    example = unit.example
    return replace(unit, example=replace(example, is_target=np.arange(len(example.ids)) >= 1))


@pytest.mark.parametrize("as_tree", [True, False])
def test_targets_between_replies_are_told_from_them(as_tree):
    found = collate_units([with_partner(unit) for unit in UNITS], 0, as_tree=as_tree)
    runs = np.split(found.batch.ids[found.batch.is_target], np.cumsum(found.sizes)[:-1])
    plain = collate_units(UNITS, 0, as_tree=as_tree)
    replies = np.split(plain.batch.ids[plain.batch.is_target], np.cumsum(plain.sizes)[:-1])
    ranked = [[[runs[n].tolist() for n in group] for group in found.groups]]
    assert ranked == [[[replies[n].tolist() for n in group] for group in plain.groups]]
    learned = [runs[n].tolist() for n in np.flatnonzero(found.is_gold)]
    assert learned == [
        [21, 22], [23, 24], [25, 26, 27], [28, 29, 30, 31], [61, 62, 63, 64], [65, 66, 67, 68], [81],
        [82, 83, 84, 85],
    ]  # fmt: skip


@pytest.mark.parametrize("as_tree", [True, False])
def test_replies_are_in_the_order_of_the_targets(as_tree):
    found = collate_units(UNITS, 0, as_tree=as_tree)
    targets = found.batch.ids[found.batch.is_target]
    replies = np.split(targets, np.cumsum(found.sizes)[:-1])
    groups = [[replies[number].tolist() for number in group] for group in found.groups]
    assert groups == [
        [[23, 24], [1, 2, 11], [3, 11]],
        [[28, 29, 30, 31], [4, 11], [5, 6, 7, 11]],
        [[65, 66, 67, 68], [8, 11], [9, 11]],
    ]
    assert [replies[number].tolist() for number in np.flatnonzero(found.is_gold)] == [
        [23, 24], [28, 29, 30, 31], [65, 66, 67, 68], [82, 83, 84, 85],
    ]  # fmt: skip
    assert sum(found.sizes) == found.batch.num_targets


def test_sizes_are_those_of_the_batch():
    for unit in UNITS:
        for as_tree in (True, False):
            batch = collate_units([unit], 0, as_tree=as_tree).batch
            assert unit.num_tokens(as_tree) == batch.lengths.sum()
            assert unit.size(as_tree) == len(batch.lengths) * batch.lengths.max()
        assert unit.num_targets == batch.num_targets
        assert (unit.num_rows, unit.longest_row) == (len(batch.lengths), batch.lengths.max())


def test_without_ranked_replies_a_batch_is_an_ordinary_one():
    found = collate_units(UNITS[2:], 0, as_tree=True)
    assert found.batch.tree is None and found.groups.shape == (0,)
    assert found.is_gold.tolist() == [True] and found.dialogue_ids == ("d6",)
