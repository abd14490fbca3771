"""Batches of dialogues and of the distractors that branch off them: as branches of one row, or as rows of their own.

    row of a dialogue   Persona ... User: hi Assistant: | hello ! <end> User: ... | and you ? <end> || no . <end> || ...
    attached at                                         ^                                           its first distractor

A branch sees the dialogue's tokens before the place where it is attached, and itself; its positions go on from there.
So the prompt of a reply is computed once, whatever the number of its distractors. Where a model can't do that, each
distractor is a row with its prompt, which gives the same.

Shapes: B rows, T tokens, R ranked replies, K distractors of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from falconer.data.batch import collate
from falconer.data.distractors import Ranked
from falconer.records import Batch, Example, Tree


@dataclass(frozen=True, slots=True)
class Unit:
    """An example and the replies of it that are ranked; it is never divided among micro-batches."""

    example: Example
    ranked: tuple[Ranked, ...]

    def num_tokens(self, as_tree: bool) -> int:
        """Return the tokens to compute, those of shared prompts once or with each distractor."""
        own = len(self.example.ids) + sum(one.num_tokens for one in self.ranked)
        prompts = (self.example.reply_starts[one.reply] * len(one.distractors) for one in self.ranked)
        return own if as_tree else own + sum(prompts)

    @property
    def num_targets(self) -> int:
        """Target tokens of the dialogue and of the distractors."""
        return self.example.num_targets + sum(one.num_tokens for one in self.ranked)

    @property
    def num_rows(self) -> int:
        """Rows that it takes without branches: one for the dialogue, and one for each distractor."""
        return 1 + sum(len(one.distractors) for one in self.ranked)

    @property
    def longest_row(self) -> int:
        """Tokens of the longest of these rows."""
        return max(
            len(self.example.ids),
            *(self.example.reply_starts[one.reply] + len(ids) for one in self.ranked for ids in one.distractors), 0,
        )  # fmt: skip

    def size(self, as_tree: bool) -> int:
        """Return the positions that it takes in a batch of its own, the padding of its rows included."""
        return self.num_tokens(True) if as_tree else self.num_rows * self.longest_row


@dataclass(frozen=True, slots=True)
class RankedBatch:
    """A batch with the replies in it: those of the dialogues, and distractors.

    Args:
        sizes: targets of each reply; the targets of the batch, row by row, are the replies one after the other. If the
            partner's turns are learned, too, those between two replies count as one here.
        is_gold: bool, for each of these; False for distractors alone.
        groups: int64 [R, 1 + K], the gold reply and its distractors, as places in `sizes`.
    """

    batch: Batch
    sizes: tuple[int, ...]
    is_gold: np.ndarray
    groups: np.ndarray

    @property
    def dialogue_ids(self) -> tuple[str, ...]:
        return self.batch.dialogue_ids


def collate_units(units: Sequence[Unit], pad_id: int, *, as_tree: bool) -> RankedBatch:
    """Return the batch of some units.

    Args:
        as_tree: distractors are branches of their dialogue's row; else rows with their prompts.
    """
    rows: list[Example] = []
    sizes: list[int] = []
    is_gold: list[bool] = []
    groups: list[list[int]] = []
    for unit in units:
        own, places = _runs(unit.example)
        first, num_gold = len(sizes), len(own)
        distractors = [ids for one in unit.ranked for ids in one.distractors]
        rows += [_with_branches(unit)] if as_tree else [unit.example, *_rows(unit)]
        sizes += [*own, *map(len, distractors)]
        is_gold += [True] * num_gold + [False] * len(distractors)
        behind = first + num_gold
        for one in unit.ranked:
            groups.append([first + places[one.reply], *range(behind, behind + len(one.distractors))])
            behind += len(one.distractors)
    batch = collate(rows, pad_id)
    if as_tree and groups:
        batch = Batch(batch.ids, batch.is_target, batch.lengths, batch.dialogue_ids, _tree(units, batch.ids.shape))
    return RankedBatch(batch, tuple(sizes), np.array(is_gold), np.array(groups, dtype=np.int64))


def _runs(example: Example) -> tuple[list[int], list[int]]:
    """Return the sizes of an example's runs of targets, each reply a run of its own, and the places of the replies."""
    before = np.append(0, np.cumsum(example.is_target))
    sizes, places, done = [], [], 0
    for start, end in zip(example.reply_starts, example.reply_ends, strict=True):
        if before[start] > done:
            sizes.append(int(before[start]) - done)
        places.append(len(sizes))
        sizes.append(end - start)
        done = int(before[end])
    return sizes, places


def _rows(unit: Unit) -> list[Example]:
    """Return a row for each distractor: its prompt, and the distractor as target."""
    return [
        _row(unit.example, unit.example.ids[: unit.example.reply_starts[one.reply]], ids)
        for one in unit.ranked
        for ids in one.distractors
    ]


def _row(example: Example, before: np.ndarray, ids: np.ndarray, before_target: np.ndarray | None = None) -> Example:
    """Return token ids and targets behind them as a row."""
    is_target = np.zeros(len(before), dtype=bool) if before_target is None else before_target
    return Example(
        ids=np.concatenate([before, ids]), is_target=np.concatenate([is_target, np.ones(len(ids), dtype=bool)]),
        dialogue_id=example.dialogue_id, reply_starts=(), reply_ends=(), turn_indices=(),
    )  # fmt: skip


def _with_branches(unit: Unit) -> Example:
    example = unit.example
    branches = [ids for one in unit.ranked for ids in one.distractors]
    return _row(example, example.ids, np.concatenate([np.empty(0, np.int32), *branches]), example.is_target)


def _tree(units: Sequence[Unit], shape: tuple[int, ...]) -> Tree:
    positions = np.tile(np.arange(shape[1]), (shape[0], 1))
    branches, predictors = np.zeros(shape, dtype=np.int64), positions - 1
    visible = np.full(shape, shape[1])
    for row, unit in enumerate(units):
        place, number = len(unit.example.ids), 0
        for one in unit.ranked:
            attached = unit.example.reply_starts[one.reply]
            for ids in one.distractors:
                number += 1
                span = slice(place, place + len(ids))
                positions[row, span] = attached + np.arange(len(ids))
                branches[row, span] = number
                visible[row, span] = attached
                predictors[row, place] = attached - 1
                place += len(ids)
        # Padding is seen by nobody, and its positions must be known to the model, too.
        positions[row, place:] = 0
    return Tree(positions, branches, visible, predictors)
