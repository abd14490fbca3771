"""Causal attention with one key/value head by the flash kernels that torch brings, forward and backward.

The kernels are called by name: torch's own choice could fall back to the one that holds every score. One key/value head
is passed as it is, and no mask: right padding needs none, since no token looks ahead.

Shapes: B rows, T tokens of a row, M tokens in all, Q query heads, H head size.
"""

from dataclasses import dataclass

import torch

_aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Layout:
    """How the tokens of a batch, one after the other, are dialogues.

    Args:
        num_rows, longest: rows, and tokens of the longest.
        starts: where each row begins, and the end; int32 [rows + 1]. None: every row is `longest` tokens, pads
            included.
    """

    num_rows: int
    longest: int
    starts: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Attended:
    """The output [M, Q, H] and what the backward pass needs besides."""

    out: torch.Tensor
    logsumexp: torch.Tensor
    random: tuple[torch.Tensor, ...]


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout) -> Attended:
    """Return causal attention of queries [M, Q, H] on one key and value head [M, 1, H], scaled by 1 / sqrt(H)."""
    if not q.is_cuda:
        return _on_cpu(q, k, v, layout)
    longest = layout.longest
    if layout.starts is None:
        q, k, v = (x.unflatten(0, (layout.num_rows, longest)) for x in (q, k, v))
    out, logsumexp, *random, _ = _aten._flash_attention_forward(
        q, k, v, layout.starts, layout.starts, longest, longest, 0.0, True, False
    )
    return Attended(out.flatten(0, -3), logsumexp, tuple(random))


def attention_grad(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attended: Attended, layout: Layout
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of queries [M, Q, H], key and value [M, 1, H], contiguous."""
    if not q.is_cuda:
        return _grad_on_cpu(grad, q, k, v, attended, layout)
    longest, out = layout.longest, attended.out
    if layout.starts is None:
        grad, q, k, v, out = (x.unflatten(0, (layout.num_rows, longest)) for x in (grad, q, k, v, out))
    grads = _aten._flash_attention_backward(
        grad, q, k, v, out, attended.logsumexp, layout.starts, layout.starts, longest, longest, 0.0, True,
        *attended.random,
    )  # fmt: skip
    return tuple(x.flatten(0, -3).contiguous() for x in grads)  # type: ignore[return-value]


def _pieces(layout: Layout, num_tokens: int) -> list[tuple[slice, int]]:
    """Return (tokens, rows in them) of what one call can take."""
    if layout.starts is None:
        return [(slice(0, num_tokens), layout.num_rows)]
    borders = layout.starts.tolist()
    return [(slice(start, end), 1) for start, end in zip(borders, borders[1:], strict=False)]


def _by_head(x: torch.Tensor, num_rows: int, num_heads: int) -> torch.Tensor:
    """Return [M, 1 or Q, H] as the CPU's kernel wants it: [B, Q, T, H]."""
    return x.unflatten(0, (num_rows, -1)).transpose(1, 2).expand(-1, num_heads, -1, -1)


def _on_cpu(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout) -> Attended:
    outs, sums = [], []
    for piece, num_rows in _pieces(layout, len(q)):
        heads = (_by_head(x[piece], num_rows, q.shape[1]) for x in (q, k, v))
        out, logsumexp = _aten._scaled_dot_product_flash_attention_for_cpu(*heads, is_causal=True)
        outs.append(out.transpose(1, 2).flatten(0, 1))
        sums.append(logsumexp)
    return Attended(torch.cat(outs), sums[0], tuple(sums))


def _grad_on_cpu(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attended: Attended, layout: Layout
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    found = []
    for (piece, num_rows), logsumexp in zip(_pieces(layout, len(q)), attended.random, strict=True):
        heads = [_by_head(x[piece], num_rows, q.shape[1]) for x in (grad, q, k, v, attended.out)]
        grads = _aten._scaled_dot_product_flash_attention_for_cpu_backward(*heads, logsumexp, 0.0, True)
        grad_q, grad_k, grad_v = (x.transpose(1, 2).flatten(0, 1) for x in grads)
        found.append((grad_q, grad_k.sum(dim=1, keepdim=True), grad_v.sum(dim=1, keepdim=True)))
    return tuple(torch.cat(parts).contiguous() for parts in zip(*found, strict=True))  # type: ignore[return-value]
