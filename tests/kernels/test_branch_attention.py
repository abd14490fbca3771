import math
from dataclasses import replace

import pytest
import torch

from falconer.kernels import fused, reference
from falconer.kernels.formats import Branches
from kernel_rule import exactly, hold_to_rule

HEAD = 64
# (first row of the prefix, its length, own keys before the first query, queries): two of one prefix, one without any,
# lengths at and around a tile's borders.
CASES = {
    "decoding": [(0, 70, 0, 1), (0, 64, 5, 1), (70, 1, 31, 1), (71, 0, 0, 1), (71, 129, 66, 1)],
    "decoding on one prefix": [(0, 70, 0, 1), (0, 64, 5, 1), (0, 1, 31, 1), (0, 0, 2, 1), (0, 129, 66, 1)],
    "candidates": [(0, 70, 0, 3), (0, 64, 0, 1), (70, 1, 0, 12), (71, 0, 0, 2), (71, 129, 0, 70)],
    "some of both": [(5, 20, 4, 2), (5, 21, 0, 5)],
}


def written_out(qkv, prefix, own, cases):
    """Attention of each branch by its definition."""
    outs, at, own_at = [], 0, 0
    for start, length, before, count in cases:
        q = qkv[at : at + count].view(count, -1, HEAD)[:, :-2]
        keys = torch.cat([prefix[start : start + length], own[own_at : own_at + before + count]])
        scores = torch.einsum("mqh,nh->qmn", q, keys[:, 0]) / math.sqrt(HEAD)
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
@pytest.mark.parametrize("num_queries", [1, 3, 71])
def test_against_the_definition(place, case, num_queries, monkeypatch):
    cases = CASES[case] if num_queries < 71 else CASES[case][:2]
    packed = any(count > 1 for _, _, _, count in cases)
    branches = branches_of(cases, place.device, packed)
    qkv = place.random(sum(case[3] for case in cases), (num_queries + 2) * HEAD)
    prefix = place.random(200, 2, HEAD)
    own = place.random(int(branches.own_lengths.sum()), 5, HEAD)[:, -2:]
    exact, plain = (written_out(*values, cases) for values in ((exactly([qkv, prefix, own])), (qkv, prefix, own)))
    hold_to_rule(reference.branch_attention(qkv, prefix, own, branches, HEAD), plain, exact)
    for few in (0, 10**9):
        monkeypatch.setattr("falconer.kernels.branch_attention.FEW_PROGRAMS", few)
        hold_to_rule(fused.branch_attention(qkv, prefix, own, branches, HEAD), plain, exact)


def test_own_keys_behind_their_prefix_in_one_cache(place):
    cases = [(0, 70, 0, 1), (90, 1, 3, 1), (100, 0, 6, 1), (120, 64, 15, 1)]
    cache, qkv = place.random(200, 2, HEAD), place.random(len(cases), 5 * HEAD)
    own = torch.cat([cache[start + length :][: before + 1] for start, length, before, _ in cases])
    branches = branches_of(cases, place.device, packed=False)
    behind = replace(branches, own_starts=branches.prefix_starts + branches.prefix_lengths)
    exact, plain = (written_out(*values, cases) for values in ((exactly([qkv, cache, own])), (qkv, cache, own)))
    for ops in (reference, fused):
        hold_to_rule(ops.branch_attention(qkv, cache, cache, behind, HEAD), plain, exact)
