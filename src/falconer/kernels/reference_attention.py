"""Attention in plain torch, of the queries of a batch and of branches; part of `reference`.

Shapes: M tokens, Q query heads, G key/value heads, E query heads of each of them, H head size, N = (Q + 2 G) * H,
S branches, L queries of a branch, P tokens of the prefix cache, O own tokens.
"""

import math

import torch

from falconer.kernels.formats import Attended, Branches, Heads, Layout

_aten = torch.ops.aten


def attention(qkv_MN: torch.Tensor, layout: Layout, heads: Heads) -> Attended:
    """Return causal attention of all query heads on their key and value heads, scaled by 1 / sqrt(H).

    torch's flash kernel for the CPU is called by name, so that nothing can fall back to one that stores every score. A
    mask is only needed for rows with branches: where rows are padded on the right, no token looks ahead at a pad.

    Args:
        qkv_MN: rotated.
    """
    outs, sums = [], []
    for piece, num_rows in _pieces(layout, len(qkv_MN)):
        out, logsumexp = _aten._scaled_dot_product_flash_attention_for_cpu(
            *_by_head(qkv_MN[piece], num_rows, heads), is_causal=layout.mask is None, attn_mask=layout.mask
        )
        outs.append(out.transpose(1, 2).flatten(0, 1).flatten(1))
        sums.append(logsumexp)
    return Attended(torch.cat(outs), tuple(sums))


def attention_grad(
    grad_MD: torch.Tensor, qkv_MN: torch.Tensor, attended: Attended, layout: Layout, heads: Heads
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of the queries [M, Q, H], the keys and the values [M, G, H]."""
    found = []
    for (piece, num_rows), logsumexp in zip(_pieces(layout, len(qkv_MN)), attended.logsumexp, strict=True):
        q, k, v = _by_head(qkv_MN[piece], num_rows, heads)
        wide = (num_rows, -1, heads.num_queries, heads.size)
        grad, out = (x[piece].view(wide).transpose(1, 2) for x in (grad_MD, attended.out))
        grads = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, logsumexp, 0.0, layout.mask is None, attn_mask=layout.mask
        )
        grad_q, grad_k, grad_v = (x.transpose(1, 2).flatten(0, 1) for x in grads)
        grouped_shape = (-1, heads.num_groups, heads.queries_each, heads.size)
        found.append((grad_q, *(x.reshape(grouped_shape).sum(dim=2) for x in (grad_k, grad_v))))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))  # type: ignore[return-value]


def branch_attention(
    qkv_MN: torch.Tensor, prefix_PG2H: torch.Tensor, own_OG2H: torch.Tensor, branches: Branches, heads: Heads
) -> torch.Tensor:
    """Return attention of branches on their prefixes and on themselves, [M, Q * H].

    Args:
        qkv_MN: rotated; only the queries are read.
        prefix_PG2H: keys and values of the prefix cache.
        own_OG2H: the branches' own; may be a view with any stride between tokens and between groups.
    """
    q_MGEH = grouped(qkv_MN, heads)[:, :, :-2] / math.sqrt(heads.size)
    mixed = [
        _group_attention(q_MGEH[:, group], prefix_PG2H[:, group], own_OG2H[:, group], branches)
        for group in range(heads.num_groups)
    ]
    return torch.cat(mixed, dim=1)


def _group_attention(
    q_MEH: torch.Tensor, prefix_P2H: torch.Tensor, own_O2H: torch.Tensor, branches: Branches
) -> torch.Tensor:
    """Return `branch_attention` of one group of query heads, whose queries are scaled, [M, E * H].

    Branches of one prefix are multiplied with its keys together, so that these are never copied.
    """
    device, num_queries, head_size = q_MEH.device, *q_MEH.shape[1:]
    prefixes = sorted(set(branches.prefix_starts.tolist()))
    if branches.starts is None and branches.longest == 1 and 2 * len(prefixes) > branches.num_branches:
        return _each_alone(q_MEH[: branches.num_branches], prefix_P2H, own_O2H, branches)
    starts = torch.arange(branches.num_branches + 1, device=device) if branches.starts is None else branches.starts
    counts_S, order_L = starts.diff(), torch.arange(branches.longest, device=device)
    token_SL = (starts[:-1, None] + order_L).clamp_max(len(q_MEH) - 1)
    q_SLH = q_MEH[token_SL].flatten(1, 2)
    order_O = torch.arange(int(branches.own_lengths.max()), device=device)
    k_SOH, v_SOH = own_O2H[(branches.own_starts[:, None] + order_O).clamp_max(len(own_O2H) - 1)].unbind(2)
    # The last key that each query sees.
    last_SL = (branches.own_lengths - counts_S)[:, None] + order_L
    hidden_SLO = order_O > last_SL[..., None]
    if branches.ends is not None:
        ends_SO = branches.ends[(branches.own_starts[:, None] + order_O).clamp_max(len(branches.ends) - 1)]
        hidden_SLO |= ends_SO[:, None] <= last_SL[..., None]
    hidden_SLO = hidden_SLO.repeat_interleave(num_queries, dim=1)
    scores_SLO = (q_SLH @ k_SOH.transpose(1, 2)).masked_fill_(hidden_SLO, -math.inf)
    mixed_SLH = torch.empty_like(q_SLH)
    for start in prefixes:
        group = (branches.prefix_starts == start).nonzero().flatten()
        lengths = branches.prefix_lengths[group]
        k_PH, v_PH = prefix_P2H[start : start + int(lengths.max())].unbind(1)
        scores = q_SLH[group] @ k_PH.T
        scores.masked_fill_((torch.arange(len(k_PH), device=device) >= lengths[:, None])[:, None], -math.inf)
        weights = _exact(torch.cat([scores, scores_SLO[group]], dim=2)).softmax(2).to(q_SLH.dtype)
        shared, own = weights.split([len(k_PH), len(order_O)], dim=2)
        mixed_SLH[group] = shared @ v_PH + own @ v_SOH[group]
    out_SLD = mixed_SLH.view(len(counts_S), branches.longest, num_queries * head_size)
    return out_SLD.flatten(0, 1) if branches.starts is None else out_SLD[order_L < counts_S[:, None]]


def _each_alone(
    q_SQH: torch.Tensor, prefix_P2H: torch.Tensor, own_O2H: torch.Tensor, branches: Branches
) -> torch.Tensor:
    """Return attention of branches that have one query each and hardly share a prefix, [S, Q * H].

    A loop over them that copies no keys is two to six times as fast as one product with copies of all of them.
    """
    columns = (branches.prefix_starts, branches.prefix_lengths, branches.own_starts, branches.own_lengths)
    is_one_cache = prefix_P2H.data_ptr() == own_O2H.data_ptr()
    mixed_SQH = torch.empty_like(q_SQH)
    places = zip(*(column.tolist() for column in columns), strict=True)
    for q_QH, out_QH, (start, length, own_start, own_length) in zip(q_SQH, mixed_SQH, places, strict=True):
        if is_one_cache and own_start == start + length:
            keys_T2H = prefix_P2H[start : own_start + own_length]
        else:
            parts = prefix_P2H[start : start + length], own_O2H[own_start : own_start + own_length]
            keys_T2H = torch.cat(parts)
        k_TH, v_TH = keys_T2H.unbind(1)
        weights_QT = _exact(q_QH @ k_TH.T).softmax(1).to(q_QH.dtype)
        torch.mm(weights_QT, v_TH, out=out_QH)
    return mixed_SQH.flatten(1)


def _pieces(layout: Layout, num_tokens: int) -> list[tuple[slice, int]]:
    """Return (tokens, rows in them) of what one call of attention can take: rows of one length."""
    if layout.starts is None:
        return [(slice(0, num_tokens), layout.num_rows)]
    borders = layout.starts.tolist()
    return [(slice(start, end), 1) for start, end in zip(borders, borders[1:], strict=False)]


def grouped(qkv_MN: torch.Tensor, heads: Heads) -> torch.Tensor:
    """Return a view of a projection by groups, [M, G, E + 2, H]: a group's query heads, its key and its value."""
    return qkv_MN.view(len(qkv_MN), heads.num_groups, heads.queries_each + 2, heads.size)


def _by_head(qkv_MN: torch.Tensor, num_rows: int, heads: Heads) -> tuple[torch.Tensor, ...]:
    """Return queries, keys and values [rows, Q, tokens, H]; each key and value head is seen E times."""
    heads_BTGEH = grouped(qkv_MN, heads).unflatten(0, (num_rows, -1))
    queries = heads_BTGEH[:, :, :, :-2]
    keys, values = (heads_BTGEH[:, :, :, [at]].expand_as(queries) for at in (-2, -1))
    return tuple(x.flatten(2, 3).transpose(1, 2) for x in (queries, keys, values))


def _exact(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()
