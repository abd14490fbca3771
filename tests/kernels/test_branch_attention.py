import functools
import math
from dataclasses import replace

import pytest
import torch

from falconer.kernels import fused, reference
from falconer.kernels.formats import Branches, Heads
from falconer.kernels.reference import grouped
from kernel_rule import exactly, hold_to_rule

# One key/value head, as Falcon-7B; several, as Falcon-40B; several of 128, as Falcon-11B.
HEADS = [Heads(1, 1, 64), Heads(1, 3, 64), Heads(1, 71, 64), Heads(2, 6, 64), Heads(3, 12, 32), Heads(2, 4, 128)]
# (first row of the prefix, its length, own keys before the first query, queries): two of one prefix, one without any,
# lengths at and around a tile's borders.
CASES = {
    "decoding": [(0, 70, 0, 1), (0, 64, 5, 1), (70, 1, 31, 1), (71, 0, 0, 1), (71, 129, 66, 1)],
    "decoding on one prefix": [(0, 70, 0, 1), (0, 64, 5, 1), (0, 1, 31, 1), (0, 0, 2, 1), (0, 129, 66, 1)],
    "candidates": [(0, 70, 0, 3), (0, 64, 0, 1), (70, 1, 0, 12), (71, 0, 0, 2), (71, 129, 0, 70)],
    "some of both": [(5, 20, 4, 2), (5, 21, 0, 5)],
}


def written_out(qkv, prefix, own, cases, heads):
    """Attention of each branch by its definition, a group at a time."""
    groups = qkv.view(len(qkv), heads.num_groups, -1)
    return torch.cat(
        [one_group(groups[:, g], prefix[:, g], own[:, g], cases, heads.size) for g in range(groups.shape[1])], 1
    )


def one_group(qkv, prefix, own, cases, size):
    outs, at, own_at = [], 0, 0
    for start, length, before, count in cases:
        q = qkv[at : at + count].view(count, -1, size)[:, :-2]
        keys = torch.cat([prefix[start : start + length], own[own_at : own_at + before + count]])
        scores = torch.einsum("mqh,nh->qmn", q, keys[:, 0]) / math.sqrt(size)
        future = torch.ones(count, len(keys), dtype=torch.bool, device=qkv.device).triu(length + before + 1)
        outs.append(torch.einsum("qmn,nh->mqh", scores.masked_fill(future, -math.inf).softmax(-1), keys[:, 1]))
        at, own_at = at + count, own_at + before + count
    return torch.cat(outs).flatten(1)


def branches_of(cases, device, packed):
    def column(values):
        return torch.tensor(values, device=device)

    counts = [case[3] for case in cases]
    own = [case[2] + case[3] for case in cases]
    return Branches(
        len(cases), max(counts), column([sum(counts[:i]) for i in range(len(cases) + 1)]) if packed else None,
        column([case[0] for case in cases]), column([case[1] for case in cases]),
        column([sum(own[:i]) for i in range(len(cases))]), column(own),
    )  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_against_the_definition(place, case, heads, monkeypatch):
    cases = CASES[case] if heads.num_queries < 71 else CASES[case][:2]
    packed = any(count > 1 for _, _, _, count in cases)
    branches = branches_of(cases, place.device, packed)
    qkv = place.random(sum(case[3] for case in cases), heads.width)
    prefix = place.random(200, heads.num_groups, 2, heads.size)
    own = place.random(int(branches.own_lengths.sum()), heads.num_groups, 5, heads.size)[:, :, -2:]
    exact, plain = (
        written_out(*values, cases, heads) for values in ((exactly([qkv, prefix, own])), (qkv, prefix, own))
    )
    hold_to_rule(reference.branch_attention(qkv, prefix, own, branches, heads), plain, exact)
    for few in (0, 10**9):
        monkeypatch.setattr("falconer.kernels.branch_attention.FEW_PROGRAMS", few)
        hold_to_rule(fused.branch_attention(qkv, prefix, own, branches, heads), plain, exact)


@pytest.mark.parametrize("heads", [Heads(1, 3, 64), Heads(2, 4, 128)], ids=str)
def test_trees_are_their_ways_from_root_to_leaf(place, heads):
    # The parent of each own token: a tree of 70 tokens in the order of a walk, a single text, and a fork.
    trees = [[-1, 0, 1, 1, 3, *range(4, 66), 1, 67, 0], [-1, 0, 1], [-1, 0, 0, 0, 3, 3]]
    prefixes = [(0, 70), (70, 1), (71, 0)]
    ways = [way_to(parents, token) for parents in trees for token in range(len(parents))]
    sizes = [len(parents) for parents in trees]
    starts = [sum(sizes[:number]) for number in range(len(sizes) + 1)]
    ends = [1 + max(way[-1] for way in of_tree if token in way) for of_tree in split(ways, sizes) for token in
            range(len(of_tree))]  # fmt: skip
    column = functools.partial(torch.tensor, device=place.device)
    branches = Branches(
        len(trees), max(sizes), column(starts), column([start for start, _ in prefixes]),
        column([length for _, length in prefixes]), column(starts[:-1]), column(sizes), column(ends),
    )  # fmt: skip
    qkv, prefix = place.random(sum(sizes), heads.width), place.random(100, heads.num_groups, 2, heads.size)
    own = grouped(qkv, heads)[:, :, -2:]

    def by_ways(qkv, prefix):
        """The last token of each way, as a branch that has nothing but this way."""
        outs = []
        for (start, length), begin, of_tree in zip(prefixes, starts, split(ways, sizes), strict=False):
            for way in of_tree:
                rows = qkv[torch.tensor(way, device=qkv.device) + begin]
                keys = grouped(rows, heads)[:, :, -2:]
                outs.append(written_out(rows, prefix, keys, [(start, length, 0, len(way))], heads)[-1])
        return torch.stack(outs)

    exact, plain = by_ways(*exactly([qkv, prefix])), by_ways(qkv, prefix)
    for ops in (reference, fused):
        hold_to_rule(ops.branch_attention(qkv, prefix, own, branches, heads), plain, exact)


def way_to(parents, token):
    return [] if token < 0 else [*way_to(parents, parents[token]), token]


def split(ways, sizes):
    return [ways[sum(sizes[:number]) :][:size] for number, size in enumerate(sizes)]


@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_own_keys_behind_their_prefix_in_one_cache(place, heads):
    cases = [(0, 70, 0, 1), (90, 1, 3, 1), (100, 0, 6, 1), (120, 64, 15, 1)]
    cache, qkv = place.random(200, heads.num_groups, 2, heads.size), place.random(len(cases), heads.width)
    own = torch.cat([cache[start + length :][: before + 1] for start, length, before, _ in cases])
    branches = branches_of(cases, place.device, packed=False)
    behind = replace(branches, own_starts=branches.prefix_starts + branches.prefix_lengths)
    exact, plain = (written_out(*values, cases, heads) for values in ((exactly([qkv, cache, own])), (qkv, cache, own)))
    for ops in (reference, fused):
        hold_to_rule(ops.branch_attention(qkv, cache, cache, behind, heads), plain, exact)
