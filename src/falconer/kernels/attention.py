"""Causal attention of groups of query heads to one key/value head each, forward and backward, flash style.

One group is multi-query attention (Shazeer 2019, arXiv:1911.02150), several are grouped-query attention (Ainslie et al.
2023, arXiv:2305.13245). torch's flash kernels spread the gradients of a key/value head over its query heads and then
add them up, which takes longer than the attention of short dialogues itself. Here one program sums several heads of a
group in registers, and dialogues of any lengths are concatenated without padding.

The algorithm is FlashAttention-2's (Dao 2023, arXiv:2307.08691): scores are never stored; the backward pass recomputes
them from their logsumexp.

Shapes: M tokens of all dialogues, one after the other; B dialogues; G groups, which are the key/value heads; E query
heads of each group; Q = G * E query heads; H head size; N = G * (E + 2) * H, the width of the fused projection, whose
order is that of `formats.Heads`; D = Q * H. Grids and dummy pointers: see `falconer.kernels`. Arguments of every kernel
here:

- qkv: [M, N], rotated; starts: int32 [B + 1], where each dialogue begins, and the end; num_tokens: M.
- GROUPS, EACH: G, E.
- logsumexp, delta: fp32 [Q, M]; per query the base-2 logarithm of the sum of its scores' powers, and the product of its
  output with the output's gradient.

A program has one dialogue, the third place in the grid, and one block of its queries or keys, the second; where the
dialogue is too short for that block, it has nothing to do.
"""

import math

import torch
import triton
import triton.language as tl

from falconer.kernels.formats import Attended, Heads, Layout

LOG2E = 1 / math.log(2)
# Queries and keys of a tile, measured on an H100 at 256 to 2,048 tokens (docs/LOG.md).
BLOCK_M, BLOCK_N = 64, 64
# The gradients of key and value: queries of a tile, and programs wanted, by which the heads of a group are divided.
BLOCK_M_KV = 128
NUM_PROGRAMS = 2048
# Larger heads than Falcon-7B's need more registers for a tile, and have room for fewer tiles in shared memory.
LARGE_HEAD = 128


def attention(qkv_MN: torch.Tensor, layout: Layout, heads: Heads) -> Attended:
    """See `reference.attention`."""
    num_tokens, num_queries, size = len(qkv_MN), heads.num_queries, heads.size
    is_large = size >= LARGE_HEAD
    out = torch.empty(num_tokens, num_queries * size, dtype=qkv_MN.dtype, device=qkv_MN.device)
    logsumexp = torch.empty(num_queries, num_tokens, dtype=torch.float32, device=qkv_MN.device)
    grid = (num_queries, triton.cdiv(layout.longest, BLOCK_M), layout.num_rows)
    _attend[grid](
        qkv_MN, out, logsumexp, _starts(layout, qkv_MN.device), num_tokens, LOG2E / math.sqrt(size),
        GROUPS=heads.num_groups, EACH=heads.queries_each, H=size, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N,
        num_warps=4, num_stages=2 if is_large else 3,
    )  # fmt: skip
    return Attended(out, (logsumexp,))


def attention_grad(
    grad_MD: torch.Tensor, qkv_MN: torch.Tensor, attended: Attended, layout: Layout, heads: Heads
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `reference.attention_grad`; the keys' and the values' gradients are fp32."""
    num_tokens, num_queries, size = len(qkv_MN), heads.num_queries, heads.size
    is_large, shape = size >= LARGE_HEAD, {"GROUPS": heads.num_groups, "EACH": heads.queries_each, "H": size}
    starts, (logsumexp,) = _starts(layout, qkv_MN.device), attended.logsumexp
    grad_q, delta = torch.empty_like(attended.out), torch.empty_like(logsumexp)
    scale = 1 / math.sqrt(size)
    num_blocks = triton.cdiv(layout.longest, BLOCK_M)
    _grad_query[(num_queries, num_blocks, layout.num_rows)](
        qkv_MN, attended.out, grad_MD, logsumexp, delta, grad_q, starts, num_tokens, scale,
        **shape, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, num_warps=8 if is_large else 4, num_stages=2,
    )  # fmt: skip
    num_blocks = triton.cdiv(layout.longest, BLOCK_N)
    wanted = triton.cdiv(NUM_PROGRAMS, num_blocks * layout.num_rows * heads.num_groups)
    num_parts = min(heads.queries_each, wanted)
    parts = torch.empty(
        2, num_parts, num_tokens, heads.num_groups, size, dtype=torch.float32, device=qkv_MN.device
    )  # fmt: skip
    _grad_key_value[(heads.num_groups * num_parts, num_blocks, layout.num_rows)](
        qkv_MN, grad_MD, logsumexp, delta, parts, starts, num_tokens, scale,
        triton.cdiv(heads.queries_each, num_parts),
        **shape, BLOCK_M=BLOCK_M if is_large else BLOCK_M_KV, BLOCK_N=BLOCK_N,
        num_warps=8 if is_large else 4, num_stages=2,
    )  # fmt: skip
    grad_k, grad_v = parts.sum(dim=1) if num_parts > 1 else parts[:, 0]
    return grad_q.view(num_tokens, num_queries, size), grad_k, grad_v


def _starts(layout: Layout, device: torch.device) -> torch.Tensor:
    if layout.starts is not None:
        return layout.starts
    return torch.arange(layout.num_rows + 1, dtype=torch.int32, device=device) * layout.longest


@triton.jit
def _bounds(starts):
    """Return where this program's dialogue begins among all tokens, and how many it has."""
    begin = tl.load(starts + tl.program_id(2))
    return begin, tl.load(starts + tl.program_id(2) + 1) - begin


@triton.jit
def _first_query(BLOCK_M: tl.constexpr):
    """Return the first query of this program's block, counted in its dialogue."""
    # The last block has the most keys: it starts first.
    return (tl.num_programs(1) - 1 - tl.program_id(1)) * BLOCK_M


@triton.jit
def _group_of(head, GROUPS: tl.constexpr, EACH: tl.constexpr):
    """Return the group of a query head."""
    group = 0
    if GROUPS > 1:
        group = head // EACH
    return group


@triton.jit
def _load(base, head, rows, length, stride: tl.constexpr, H: tl.constexpr):
    """Load one head [rows, H] of a matrix whose row 0 is at `base`; rows from `length` on are zero."""
    at = base + head * H + rows[:, None] * stride + tl.arange(0, H)[None, :]
    return tl.load(at, mask=(rows < length)[:, None], other=0)


@triton.jit
def _attend(
    qkv, out, logsumexp, starts, num_tokens, scale_log2,
    GROUPS: tl.constexpr, EACH: tl.constexpr, H: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid (Q, longest / BLOCK_M, B). out [M, D]; scale_log2: 1 / sqrt(H) in the unit of a power of two."""
    head = tl.program_id(0)
    first = _first_query(BLOCK_M)
    begin, length = _bounds(starts)
    if first < length:
        stride: tl.constexpr = GROUPS * (EACH + 2) * H
        base = qkv + begin.to(tl.int64) * stride
        queries = first + tl.arange(0, BLOCK_M)
        group = _group_of(head, GROUPS, EACH)
        key_head = group * (EACH + 2) + EACH
        q = _load(base, head + 2 * group, queries, length, stride, H)
        largest = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        mixed = tl.zeros([BLOCK_M, H], tl.float32)
        for start in range(0, tl.minimum(first + BLOCK_M, length), BLOCK_N):
            keys = start + tl.arange(0, BLOCK_N)
            k = _load(base, key_head, keys, length, stride, H)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
            scores = tl.where(keys[None, :] <= queries[:, None], scores, float("-inf"))
            larger = tl.maximum(largest, tl.max(scores, 1))
            p = tl.exp2(scores - larger[:, None])
            shrunk = tl.exp2(largest - larger)
            total = total * shrunk + tl.sum(p, 1)
            v = _load(base, key_head + 1, keys, length, stride, H)
            mixed = tl.dot(p.to(v.dtype), v, mixed * shrunk[:, None], input_precision="ieee")
            largest = larger
        inside = queries < length
        at = (begin + queries)[:, None].to(tl.int64) * (GROUPS * EACH * H) + head * H + tl.arange(0, H)[None, :]
        tl.store(out + at, (mixed / total[:, None]).to(out.dtype.element_ty), mask=inside[:, None])
        tl.store(logsumexp + head * num_tokens + begin + queries, largest + tl.log2(total), mask=inside)


@triton.jit
def _grad_query(
    qkv, out, grad, logsumexp, delta, grad_q, starts, num_tokens, scale,
    GROUPS: tl.constexpr, EACH: tl.constexpr, H: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid (Q, longest / BLOCK_M, B). Writes `delta`, which `_grad_key_value` reads, and the queries' gradient.

    out, grad and grad_q are attention's output, its gradient and the queries' gradient, [M, D]; scale is 1 / sqrt(H).
    """
    head, first = tl.program_id(0), _first_query(BLOCK_M)
    begin, length = _bounds(starts)
    if first < length:
        stride: tl.constexpr = GROUPS * (EACH + 2) * H
        width: tl.constexpr = GROUPS * EACH * H
        base, at_head = qkv + begin.to(tl.int64) * stride, begin.to(tl.int64) * width + head * H
        queries = first + tl.arange(0, BLOCK_M)
        inside = queries < length
        group = _group_of(head, GROUPS, EACH)
        key_head = group * (EACH + 2) + EACH
        q = _load(base, head + 2 * group, queries, length, stride, H)
        do = _load(grad + at_head, 0, queries, length, width, H)
        o = _load(out + at_head, 0, queries, length, width, H)
        at_token = head * num_tokens + begin + queries
        inner = tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)
        tl.store(delta + at_token, inner, mask=inside)
        sums = tl.load(logsumexp + at_token, mask=inside, other=0)
        dq = tl.zeros([BLOCK_M, H], tl.float32)
        for start in range(0, tl.minimum(first + BLOCK_M, length), BLOCK_N):
            keys = start + tl.arange(0, BLOCK_N)
            k = _load(base, key_head, keys, length, stride, H)
            v = _load(base, key_head + 1, keys, length, stride, H)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * 1.4426950408889634)
            p = tl.where(keys[None, :] <= queries[:, None], tl.exp2(scores - sums[:, None]), 0.0)
            dp = tl.dot(do, tl.trans(v), input_precision="ieee")
            ds = p * (dp - inner[:, None])
            dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")
        rows = queries[:, None] * width + tl.arange(0, H)[None, :]
        tl.store(grad_q + at_head + rows, (dq * scale).to(grad_q.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _grad_key_value(
    qkv, grad, logsumexp, delta, parts, starts, num_tokens, scale, heads_each,
    GROUPS: tl.constexpr, EACH: tl.constexpr, H: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid (parts * G, longest / BLOCK_N, B): a program has a part of the query heads of a group.

    Args:
        grad: [M, D], of attention's output.
        parts: fp32 [2, parts, M, G, H]; the sums over the parts are the gradients of keys and values.
        scale: 1 / sqrt(H).
        heads_each: query heads of a part; the last ones may have fewer.
    """
    group = tl.program_id(0) % GROUPS
    part = tl.program_id(0) // GROUPS
    first = tl.program_id(1) * BLOCK_N
    begin, length = _bounds(starts)
    if first < length:
        stride: tl.constexpr = GROUPS * (EACH + 2) * H
        width: tl.constexpr = GROUPS * EACH * H
        keys = first + tl.arange(0, BLOCK_N)
        base, base_grad = qkv + begin.to(tl.int64) * stride, grad + begin.to(tl.int64) * width
        key_head = group * (EACH + 2) + EACH
        k = _load(base, key_head, keys, length, stride, H)
        v = _load(base, key_head + 1, keys, length, stride, H)
        dk = tl.zeros([BLOCK_N, H], tl.float32)
        dv = tl.zeros([BLOCK_N, H], tl.float32)
        low_head = part * heads_each
        num_heads = tl.minimum(low_head + heads_each, EACH) - low_head
        # The first query head of this part among all heads of the projection, and among the query heads.
        first_head, first_query = group * (EACH + 2) + low_head, group * EACH + low_head
        # Queries before the first key see none of these keys. One loop over heads and blocks, so that loads overlap.
        skipped = first // BLOCK_M
        num_blocks = tl.cdiv(length, BLOCK_M) - skipped
        for turn in range(0, num_heads * num_blocks):
            place = turn // num_blocks
            queries = (skipped + turn % num_blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
            q = _load(base, first_head + place, queries, length, stride, H)
            do = _load(base_grad, first_query + place, queries, length, width, H)
            at_token = (first_query + place) * num_tokens + begin + queries
            # Queries beyond the dialogue get exp2(-inf) = 0.
            sums = tl.load(logsumexp + at_token, mask=queries < length, other=float("inf"))
            inner = tl.load(delta + at_token, mask=queries < length, other=0)
            scores = tl.dot(k, tl.trans(q), input_precision="ieee") * (scale * 1.4426950408889634)
            p = tl.where(keys[:, None] <= queries[None, :], tl.exp2(scores - sums[None, :]), 0.0)
            dv = tl.dot(p.to(do.dtype), do, dv, input_precision="ieee")
            dp = tl.dot(v, tl.trans(do), input_precision="ieee")
            ds = p * (dp - inner[None, :])
            dk = tl.dot(ds.to(q.dtype), q, dk, input_precision="ieee")
        at_head = (part * num_tokens + begin + keys).to(tl.int64) * GROUPS + group
        at = at_head[:, None] * H + tl.arange(0, H)[None, :]
        inside = (keys < length)[:, None]
        half = tl.num_programs(0).to(tl.int64) * num_tokens * H
        tl.store(parts + at, dk * scale, mask=inside)
        tl.store(parts + half + at, dv, mask=inside)
