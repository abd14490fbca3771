"""Attention of many short branches to shared prefixes, for decoding and ranking.

The query heads of a group look at the same keys, so the heads of a branch's queries are the rows of one product: with
16 or 71 heads even a single query fills the tensor cores. Keys are read where they lie, those of the prefix in the
cache that all branches of a dialogue share, a branch's own behind them: nothing is copied and no mask is stored.

Shapes: M queries of all branches, S branches, Q query heads, G groups of E of them with a key/value head each, H head
size, P tokens of the prefix cache, O own tokens; the projection's order is that of `formats.Heads`.
Grids and dummy pointers: see `falconer.kernels`.
"""

import math

import torch
import triton
import triton.language as tl

from falconer.kernels.attention import LARGE_HEAD, LOG2E
from falconer.kernels.formats import Branches, Heads

# Rows (query heads) and keys of a tile. Few branches are cut into small tiles, so that more of the device works.
BLOCK_M, SMALL_BLOCK_M, BLOCK_N = 128, 16, 64
FEW_PROGRAMS = 128


def branch_attention(
    qkv_MN: torch.Tensor, prefix_PG2H: torch.Tensor, own_OG2H: torch.Tensor, branches: Branches, heads: Heads
) -> torch.Tensor:
    """See `reference.branch_attention`; a key and its value must be contiguous."""
    num_tokens, size, is_large = len(qkv_MN), heads.size, heads.size >= LARGE_HEAD
    assert own_OG2H.stride()[2:] == prefix_PG2H.stride()[2:] == (size, 1)
    out = torch.empty(num_tokens, heads.num_queries * size, dtype=qkv_MN.dtype, device=qkv_MN.device)
    rows = branches.longest * heads.queries_each
    is_few = branches.num_branches * heads.num_groups * triton.cdiv(rows, BLOCK_M) < FEW_PROGRAMS
    most_rows = BLOCK_M // 2 if is_large else BLOCK_M
    block_m = SMALL_BLOCK_M if is_few else min(most_rows, max(SMALL_BLOCK_M, triton.next_power_of_2(rows)))
    _attend_branches[(triton.cdiv(rows, block_m), branches.num_branches, heads.num_groups)](
        qkv_MN, prefix_PG2H, own_OG2H, out, qkv_MN if branches.starts is None else branches.starts,
        branches.prefix_starts, branches.prefix_lengths, branches.own_starts, branches.own_lengths,
        branches.own_lengths if branches.ends is None else branches.ends,
        *prefix_PG2H.stride()[:2], *own_OG2H.stride()[:2], LOG2E / math.sqrt(size),
        packed=branches.starts is not None, tree=branches.ends is not None,
        GROUPS=heads.num_groups, EACH=heads.queries_each, H=size, BLOCK_M=block_m, BLOCK_N=BLOCK_N,
        num_warps=2 if block_m == SMALL_BLOCK_M else 4, num_stages=2 if is_large else 3,
    )  # fmt: skip
    return out


@triton.jit
def _mix(
    q, base, stride, keys, last, end, inside, largest, total, mixed, scale_log2, tree: tl.constexpr, H: tl.constexpr,
):  # fmt: skip
    """Take a tile of keys into the sums of FlashAttention-2 (Dao 2023, arXiv:2307.08691).

    Args:
        q: [BLOCK_M, H].
        base, stride, keys, inside: where token 0's key is, elements from token to token, the tile's tokens [BLOCK_N],
            and which of them exist. A token's value stands behind its key.
        last: the last key that each row sees [BLOCK_M].
        end: of each key, the first of these that does not see it any more [BLOCK_N], if `tree`.
        largest, total, mixed: fp32 [BLOCK_M], [BLOCK_M], [BLOCK_M, H]; the sums so far, which are returned anew.
    """
    columns = tl.arange(0, H)
    at = base + keys[:, None].to(tl.int64) * stride + columns[None, :]
    k = tl.load(at, mask=inside[:, None], other=0)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
    seen = keys[None, :] <= last[:, None]
    if tree:
        seen = seen & (end[None, :] > last[:, None])
    scores = tl.where(seen, scores, float("-inf"))
    larger = tl.maximum(largest, tl.max(scores, 1))
    p = tl.exp2(scores - larger[:, None])
    shrunk = tl.exp2(largest - larger)
    v = tl.load(at + H, mask=inside[:, None], other=0)
    mixed = tl.dot(p.to(v.dtype), v, mixed * shrunk[:, None], input_precision="ieee")
    return larger, total * shrunk + tl.sum(p, 1), mixed


@triton.jit
def _attend_branches(
    qkv, prefix, own, out, starts, prefix_starts, prefix_lengths, own_starts, own_lengths, ends, prefix_stride,
    prefix_group_stride, own_stride, own_group_stride, scale_log2, packed: tl.constexpr, tree: tl.constexpr,
    GROUPS: tl.constexpr, EACH: tl.constexpr, H: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid (longest * E / BLOCK_M, S, G): a program has a block of (query, head) pairs of one branch and one group.

    Args:
        qkv: [M, G * (E + 2) * H], rotated; the queries are read.
        prefix, own: keys and values [P, G, 2, H] and [O, G, 2, H], `prefix_stride` and `own_stride` elements from token
            to token, `prefix_group_stride` and `own_group_stride` from group to group.
        out: [M, Q * H].
        starts: int64 [S + 1], see `formats.Branches`, if `packed`; else each branch has one query.
        prefix_starts, prefix_lengths, own_starts, own_lengths: int64 [S], see `formats.Branches`.
        ends: int64 [O], see `formats.Branches`, if `tree`.
        scale_log2: 1 / sqrt(H) in the unit of a power of two.
    """
    branch = tl.program_id(1).to(tl.int64)
    group = tl.program_id(2)
    first = tl.program_id(0) * BLOCK_M
    begin = branch
    count = 1
    if packed:
        begin = tl.load(starts + branch)
        count = (tl.load(starts + branch + 1) - begin).to(tl.int32)
    if first < count * EACH:
        rows = first + tl.arange(0, BLOCK_M)
        query = rows // EACH
        head = rows % EACH
        inside = rows < count * EACH
        columns = tl.arange(0, H)
        stride: tl.constexpr = GROUPS * (EACH + 2) * H
        at = (begin + query)[:, None] * stride + (group * (EACH + 2) + head)[:, None] * H + columns[None, :]
        q = tl.load(qkv + at, mask=inside[:, None], other=0)
        largest = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        mixed = tl.zeros([BLOCK_M, H], tl.float32)
        length = tl.load(prefix_lengths + branch).to(tl.int32)
        base = prefix + tl.load(prefix_starts + branch) * prefix_stride + group * prefix_group_stride
        everything = tl.zeros([BLOCK_M], tl.int32) + length - 1
        for start in range(0, length, BLOCK_N):
            keys = start + tl.arange(0, BLOCK_N)
            largest, total, mixed = _mix(
                q, base, prefix_stride, keys, everything, keys, keys < length, largest, total, mixed, scale_log2,
                False, H,
            )  # fmt: skip
        length = tl.load(own_lengths + branch).to(tl.int32)
        own_start = tl.load(own_starts + branch)
        base = own + own_start * own_stride + group * own_group_stride
        # The last query sees its branch's own keys to the last, each one before it one less. Rows without a query are
        # like the last one, so that they see a key, too.
        last = length - count + tl.minimum(query, count - 1)
        end = length - count + tl.minimum(first + BLOCK_M - 1, count * EACH - 1) // EACH + 1
        for start in range(0, end, BLOCK_N):
            keys = start + tl.arange(0, BLOCK_N)
            key_ends = keys
            if tree:
                key_ends = tl.load(ends + own_start + keys, mask=keys < length, other=0).to(tl.int32)
            largest, total, mixed = _mix(
                q, base, own_stride, keys, last, key_ends, keys < length, largest, total, mixed, scale_log2, tree, H
            )
        at = (begin + query)[:, None] * (GROUPS * EACH * H) + (group * EACH + head)[:, None] * H + columns[None, :]
        tl.store(out + at, (mixed / total[:, None]).to(out.dtype.element_ty), mask=inside[:, None])
