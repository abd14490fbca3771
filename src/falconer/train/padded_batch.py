"""A few shapes for all micro-batches of a run: each is padded into one of them, since every shape needs a CUDA graph.

Rows of padding, and padding behind rows, change nothing: attention looks backwards only, and no pad has a loss. The
shapes follow from the run's micro-batches alone, never from the order in which they come, so that a run that is resumed
computes the same.

Shapes: B batch, T tokens, N targets.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from falconer.records import Batch

# How many shapes a run has at most. Each costs a recording at first, and some memory for its list of kernels.
MOST_SHAPES = 16
# By how much a shape may exceed the largest micro-batch, and a micro-batch be padded into a shape made for others.
MOST_PADDING = 1.125
MOST_WASTE = 2.0
# What targets are rounded up to; the common length of rows is a multiple of 8 (`data.batch.collate`).
_TARGETS_STEP = 32


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """The shape of a padded micro-batch: rows, tokens of each, and targets of all."""

    rows: int
    tokens: int
    targets: int

    @property
    def positions(self) -> int:
        """B * T."""
        return self.rows * self.tokens

    def fits_into(self, other: "Shape") -> bool:
        """Return whether a batch of this shape can be padded to another one."""
        return self.rows <= other.rows and self.tokens <= other.tokens and self.targets <= other.targets


def shape_of(batch: Batch) -> Shape:
    """Return the shape of a batch, its targets rounded up."""
    rows, tokens = batch.ids.shape
    return Shape(rows, tokens, -(-batch.num_targets // _TARGETS_STEP) * _TARGETS_STEP)


def shapes_for(found: Sequence[Shape], most: int = MOST_SHAPES) -> tuple[Shape, ...]:
    """Return at most so many shapes into which micro-batches of the given shapes are padded, the largest first.

    Those two shapes are merged again and again whose merging adds the least padding. None gets larger than the largest
    micro-batch by more than `MOST_PADDING`; if too many are left, those with the fewest positions have none.

    Args:
        found: of all micro-batches, as often as they occur.
    """
    if not found:
        return ()
    limit = MOST_PADDING * max(one.positions for one in found)
    # The number of targets differs from batch to batch, and costs less than rows and tokens.
    counts, targets = Counter((one.tokens, one.rows) for one in found), defaultdict[tuple[int, int], int](int)
    for one in found:
        targets[one.tokens, one.rows] = max(targets[one.tokens, one.rows], one.targets)
    # Neighbours in length are merged alone: rows of about one length fill the same budget.
    groups = [(Shape(rows, tokens, targets[tokens, rows]), counts[tokens, rows]) for tokens, rows in sorted(counts)]
    while len(groups) > most:
        added = [_added(one, other, limit) for one, other in pairwise(groups)]
        place = min(range(len(added)), key=added.__getitem__)
        if added[place] == float("inf"):
            break
        (one, number), (other, other_number) = groups[place : place + 2]
        groups[place : place + 2] = [(_both(one, other), number + other_number)]
    kept = sorted(groups, key=lambda group: (-group[0].positions * group[1], group[0]))[:most]
    return tuple(sorted((shape for shape, _ in kept), key=lambda shape: (-shape.positions, shape)))


def assigned(shape: Shape, shapes: Sequence[Shape]) -> Shape | None:
    """Return the smallest shape that a batch is padded to; None if none is worth it."""
    fitting = [one for one in shapes if shape.fits_into(one) and one.positions <= MOST_WASTE * shape.positions]
    return min(fitting, key=lambda one: (one.positions, one.targets), default=None)


def padded(batch: Batch, shape: Shape, pad_id: int) -> np.ndarray:
    """Return the token ids of a padded batch, the places that predict its targets, and the targets: [B*T + 2 N].

    Of the last two, those behind the batch's own targets are zero: their losses have to be left out.
    """
    whole = with_padding(batch, shape, pad_id)
    targets = np.flatnonzero(whole.is_target)
    predicting, labels = np.zeros((2, shape.targets), dtype=np.int64)
    # The hidden states at position t-1 predict the token at t.
    predicting[: len(targets)], labels[: len(targets)] = targets - 1, whole.ids.ravel()[targets]
    return np.concatenate([whole.ids.ravel(), predicting, labels])


def with_padding(batch: Batch, shape: Shape, pad_id: int) -> Batch:
    """Return a batch with rows and tokens of padding, as `padded` has them."""
    rows, width = batch.ids.shape
    ids = np.full((shape.rows, shape.tokens), pad_id, dtype=np.int64)
    is_target, lengths = np.zeros(ids.shape, dtype=bool), np.zeros(shape.rows, dtype=np.int64)
    ids[:rows, :width], is_target[:rows, :width], lengths[:rows] = batch.ids, batch.is_target, batch.lengths
    return Batch(ids, is_target, lengths, batch.dialogue_ids)


def _both(one: Shape, other: Shape) -> Shape:
    return Shape(max(one.rows, other.rows), max(one.tokens, other.tokens), max(one.targets, other.targets))


def _added(one: tuple[Shape, int], other: tuple[Shape, int], limit: float) -> float:
    """Return the positions that merging two shapes adds to all of their micro-batches; inf if it is not allowed."""
    both = _both(one[0], other[0])
    if both.positions > limit:
        return float("inf")
    return sum(number * (both.positions - shape.positions) for shape, number in (one, other))
