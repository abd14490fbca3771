"""Attention of many short branches to shared prefixes, with one key/value head, for decoding and ranking.

All query heads look at the same keys, so the heads of a branch's queries are the rows of one product: with 71 heads
even a single query fills the tensor cores. Keys are read where they lie, those of the prefix in the cache that all
branches of a dialogue share, a branch's own behind them: nothing is copied and no mask is stored.

Shapes: M queries of all branches, S branches, Q query heads, H head size, P tokens of the prefix cache, O own tokens.
Grids and dummy pointers: see `falconer.kernels`.
"""

import math

import torch
import triton
import triton.language as tl

from falconer.kernels.attention import LOG2E
from falconer.kernels.formats import Branches

# Rows (query heads) and keys of a tile. Few branches are cut into small tiles, so that more of the device works.
BLOCK_M, SMALL_BLOCK_M, BLOCK_N = 128, 16, 64
FEW_PROGRAMS = 128


def branch_attention(
    qkv_MN: torch.Tensor, prefix_P2H: torch.Tensor, own_O2H: torch.Tensor, branches: Branches, head_size: int
) -> torch.Tensor:
    """See `reference.branch_attention`; keys and values must be contiguous within a token."""
    num_tokens, width = qkv_MN.shape
    num_queries = width // head_size - 2
    assert own_O2H.stride()[1:] == prefix_P2H.stride()[1:] == (head_size, 1)
    out = torch.empty(num_tokens, num_queries * head_size, dtype=qkv_MN.dtype, device=qkv_MN.device)
    rows = branches.longest * num_queries
    is_few = branches.num_branches * triton.cdiv(rows, BLOCK_M) < FEW_PROGRAMS
    block_m = SMALL_BLOCK_M if is_few else min(BLOCK_M, max(SMALL_BLOCK_M, triton.next_power_of_2(rows)))
    _attend_branches[(triton.cdiv(rows, block_m), branches.num_branches)](
        qkv_MN, prefix_P2H, own_O2H, out, qkv_MN if branches.starts is None else branches.starts,
        branches.prefix_starts, branches.prefix_lengths, branches.own_starts, branches.own_lengths,
        prefix_P2H.stride(0), own_O2H.stride(0), LOG2E / math.sqrt(head_size),
        packed=branches.starts is not None, NUM_QUERIES=num_queries, H=head_size, BLOCK_M=block_m, BLOCK_N=BLOCK_N,
        num_warps=2 if block_m == SMALL_BLOCK_M else 4, num_stages=3,
    )  # fmt: skip
    return out


@triton.jit
def _mix(q, base, stride, keys, last, inside, largest, total, mixed, scale_log2, H: tl.constexpr):
    """Take a tile of keys into the sums of FlashAttention-2 (Dao 2023, arXiv:2307.08691).

    Args:
        q: [BLOCK_M, H].
        base, stride, keys, inside: where token 0's key is, elements from token to token, the tile's tokens [BLOCK_N],
            and which of them exist. A token's value stands behind its key.
        last: the last key that each row sees [BLOCK_M].
        largest, total, mixed: fp32 [BLOCK_M], [BLOCK_M], [BLOCK_M, H]; the sums so far, which are returned anew.
    """
    columns = tl.arange(0, H)
    at = base + keys[:, None].to(tl.int64) * stride + columns[None, :]
    k = tl.load(at, mask=inside[:, None], other=0)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
    scores = tl.where(keys[None, :] <= last[:, None], scores, float("-inf"))
    larger = tl.maximum(largest, tl.max(scores, 1))
    p = tl.exp2(scores - larger[:, None])
    shrunk = tl.exp2(largest - larger)
    v = tl.load(at + H, mask=inside[:, None], other=0)
    mixed = tl.dot(p.to(v.dtype), v, mixed * shrunk[:, None], input_precision="ieee")
    return larger, total * shrunk + tl.sum(p, 1), mixed


@triton.jit
def _attend_branches(
    qkv, prefix, own, out, starts, prefix_starts, prefix_lengths, own_starts, own_lengths, prefix_stride, own_stride,
    scale_log2, packed: tl.constexpr, NUM_QUERIES: tl.constexpr, H: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid (longest * Q / BLOCK_M, S): a program has a block of (query, head) pairs of one branch.

    Args:
        qkv: [M, (Q + 2) * H], rotated; the queries are read.
        prefix, own: keys and values [P, 2, H] and [O, 2, H], `prefix_stride` and `own_stride` elements from token to
            token.
        out: [M, Q * H].
        starts: int64 [S + 1], see `formats.Branches`, if `packed`; else each branch has one query.
        prefix_starts, prefix_lengths, own_starts, own_lengths: int64 [S], see `formats.Branches`.
        scale_log2: 1 / sqrt(H) in the unit of a power of two.
    """
    branch = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * BLOCK_M
    begin = branch
    count = 1
    if packed:
        begin = tl.load(starts + branch)
        count = (tl.load(starts + branch + 1) - begin).to(tl.int32)
    if first < count * NUM_QUERIES:
        rows = first + tl.arange(0, BLOCK_M)
        query = rows // NUM_QUERIES
        head = rows % NUM_QUERIES
        inside = rows < count * NUM_QUERIES
        columns = tl.arange(0, H)
        at = (begin + query)[:, None] * ((NUM_QUERIES + 2) * H) + head[:, None] * H + columns[None, :]
        q = tl.load(qkv + at, mask=inside[:, None], other=0)
        largest = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        mixed = tl.zeros([BLOCK_M, H], tl.float32)
        length = tl.load(prefix_lengths + branch).to(tl.int32)
        base = prefix + tl.load(prefix_starts + branch) * prefix_stride
        everything = tl.zeros([BLOCK_M], tl.int32) + length - 1
        for start in range(0, length, BLOCK_N):
            keys = start + tl.arange(0, BLOCK_N)
            largest, total, mixed = _mix(
                q, base, prefix_stride, keys, everything, keys < length, largest, total, mixed, scale_log2, H
            )
        length = tl.load(own_lengths + branch).to(tl.int32)
        base = own + tl.load(own_starts + branch) * own_stride
        # The last query sees all of its branch's own keys, each one before it one less.
        last = length - count + query
        end = length - count + tl.minimum(first + BLOCK_M - 1, count * NUM_QUERIES - 1) // NUM_QUERIES + 1
        for start in range(0, end, BLOCK_N):
            keys = start + tl.arange(0, BLOCK_N)
            largest, total, mixed = _mix(
                q, base, own_stride, keys, last, keys < length, largest, total, mixed, scale_log2, H
            )
        at = (begin + query)[:, None] * (NUM_QUERIES * H) + head[:, None] * H + columns[None, :]
        tl.store(out + at, (mixed / total[:, None]).to(out.dtype.element_ty), mask=inside[:, None])
