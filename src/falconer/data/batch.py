"""From examples to optimiser steps and micro-batches: by token budget, in length buckets, deterministic, resumable.

The dialogues of a step are chosen before it is divided into micro-batches and among ranks, so that 1 x 8, 8 x 1 and two
ranks compute the same gradient.
"""

from collections.abc import Sequence

import numpy as np

from falconer.errors import FalconerError
from falconer.records import Batch, Example

# Dialogues are sorted by length only within a window of this many steps, so that an epoch's order stays random.
WINDOW_STEPS = 32
# A micro-batch may be larger than its budget by this share where that saves one. Steps have a budget of whole
# micro-batches, but an odd number of dialogues: without this, 55 dialogues were cut into 27, 27 and 1.
MICRO_SLACK = 1 / 16


def plan_epoch(lengths: Sequence[int], step_tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """Return one epoch's optimiser steps, each a list of example indices of similar length.

    Args:
        lengths: tokens of each example.
        step_tokens: budget of a step, pads included; an example longer than that makes a step alone.
        seed, epoch: they alone decide the order; position k of the result is where a resumed run goes on.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths))
    window = max(1, int(WINDOW_STEPS * step_tokens / max(1.0, float(np.mean(lengths))))) if len(lengths) else 1
    steps: list[list[int]] = []
    for start in range(0, len(order), window):
        by_length = sorted(order[start : start + window].tolist(), key=lambda index: lengths[index])
        steps += split_by_tokens(by_length, lengths, step_tokens)
    return [steps[index] for index in rng.permutation(len(steps))]


def split_by_tokens(indices: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut a list of examples, in its order, into groups whose padded size (rows x longest) fits the budget."""
    groups: list[list[int]] = []
    longest = 0
    for index in indices:
        longest = max(longest, lengths[index])
        if groups and groups[-1] and (len(groups[-1]) + 1) * longest <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
            longest = lengths[index]
    return groups


def deal_out(costs: Sequence[float], num_ranks: int) -> list[list[int]]:
    """Return for each rank the places of its items, in ascending order.

    The most expensive item goes first, each to the rank with the least work so far, so that all finish at about the
    same time (Graham's LPT rule, doi:10.1137/0117039).

    Args:
        costs: of each item, in any unit.
    """
    loads = [0.0] * num_ranks
    dealt: list[list[int]] = [[] for _ in range(num_ranks)]
    for place in sorted(range(len(costs)), key=lambda place: (-costs[place], place)):
        rank = loads.index(min(loads))
        loads[rank] += costs[place]
        dealt[rank].append(place)
    return [sorted(places) for places in dealt]


def micro_batches(
    step: Sequence[int], lengths: Sequence[int], micro_tokens: int, rank: int, num_ranks: int
) -> list[list[int]]:
    """Return this rank's share of a step, cut into micro-batches of about the same padded size.

    The list may be empty on a rank when a step has fewer dialogues than ranks.

    Args:
        micro_tokens: budget of a micro-batch, pads included; `MICRO_SLACK` says when one exceeds it.
    """
    by_length = sorted(step, key=lambda index: (lengths[index], index))
    own = deal_out([lengths[index] for index in by_length], num_ranks)[rank]
    return split_evenly([by_length[place] for place in own], lengths, micro_tokens + int(MICRO_SLACK * micro_tokens))


def split_evenly(indices: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut a list of examples as `split_by_tokens` does, into as few groups, the largest of which is as small as can be.

    A small group costs a GPU nearly the time of a large one, because the host has to start the same kernels.
    """
    greedy = split_by_tokens(indices, lengths, budget)
    fewest = len(greedy)
    if fewest <= 1:
        return greedy
    # The smallest budget that needs no more groups lies in here, by bisection.
    too_small, enough = 0, budget
    while enough - too_small > 1:
        tried = (too_small + enough) // 2
        if len(split_by_tokens(indices, lengths, tried)) <= fewest:
            enough = tried
        else:
            too_small = tried
    return split_by_tokens(indices, lengths, enough)


def collate(examples: Sequence[Example], pad_id: int, multiple: int = 8) -> Batch:
    """Pad examples on the right to one length.

    Args:
        pad_id: any valid token id; pads carry no loss, and no real token ever looks at them.
        multiple: the common length is rounded up to this many tokens, so that shapes repeat.

    Raises:
        FalconerError: the mask covers a pad (a bug in whoever made the examples).
    """
    longest = max(len(example.ids) for example in examples)
    width = -(-longest // multiple) * multiple
    ids = np.full((len(examples), width), pad_id, dtype=np.int64)
    is_target = np.zeros((len(examples), width), dtype=bool)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = example.ids
        is_target[row, : len(example.is_target)] = example.is_target
    batch = Batch(
        ids=ids,
        is_target=is_target,
        lengths=np.array([len(example.ids) for example in examples], dtype=np.int64),
        dialogue_ids=tuple(example.dialogue_id for example in examples),
    )
    check_batch(batch)
    return batch


def check_batch(batch: Batch) -> None:
    """Refuse a batch with a loss on a pad, or one where a row's first token is a target (nothing predicts it).

    Raises:
        FalconerError: naming the dialogues.
    """
    is_pad = np.arange(batch.ids.shape[1])[None, :] >= batch.lengths[:, None]
    bad = (batch.is_target & is_pad).any(axis=1) | batch.is_target[:, 0]
    if bad.any():
        names = ", ".join(name for name, is_bad in zip(batch.dialogue_ids, bad, strict=True) if is_bad)
        raise FalconerError(
            f"The loss mask includes padding or the first token of a dialogue in: {names}.",
            "Encode these dialogues again.",
        )


def padding_share(lengths: Sequence[int], groups: Sequence[Sequence[int]], multiple: int = 8) -> float:
    """Return the share (0-1) of all positions that are padding when `groups` are collated."""
    real = sum(lengths[index] for group in groups for index in group)
    padded = sum(len(group) * -(-max(lengths[index] for index in group) // multiple) * multiple for group in groups)
    return 1 - real / padded if padded else 0.0
