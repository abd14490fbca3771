"""Cross-entropy of a chunk of logits; the gradient overwrites the logits, so that no second [M, V] tensor is needed.

Shapes: M rows (target tokens), V vocabulary. Grids: see `falconer.kernels`.
"""

import torch
import triton
import triton.language as tl

BLOCK = 4096


def cross_entropy_(logits_MV: torch.Tensor, labels: torch.Tensor, grad: bool) -> torch.Tensor:
    """See `reference.cross_entropy_`."""
    num_rows, vocab = logits_MV.shape
    nll = torch.empty(num_rows, dtype=torch.float32, device=logits_MV.device)
    _cross_entropy[(num_rows,)](logits_MV, labels, nll, vocab=vocab, grad=grad, BLOCK=BLOCK, num_warps=8)
    return nll


@triton.jit
def _cross_entropy(logits, labels, nll, vocab: tl.constexpr, grad: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (M,).

    Args:
        logits: [M, V]; with `grad` they become their gradient.
        labels: int64 [M].
        nll: fp32 [M], in nats.
        vocab: V.
    """
    row = tl.program_id(0).to(tl.int64)
    logits += row * vocab
    label = tl.load(labels + row)
    # One running maximum and sum a lane; finite, so that a lane which saw nothing gives exp(-huge) = 0, not NaN.
    largest = tl.full([BLOCK], -1e30, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, vocab, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        x = tl.load(logits + columns, mask=columns < vocab, other=-1e30).to(tl.float32)
        larger = tl.maximum(largest, x)
        total = total * tl.exp(largest - larger) + tl.where(columns < vocab, tl.exp(x - larger), 0.0)
        largest = larger
    peak = tl.max(largest)
    normaliser = peak + tl.log(tl.sum(total * tl.exp(largest - peak)))
    tl.store(nll + row, normaliser - tl.load(logits + label).to(tl.float32))
    if grad:
        for start in range(0, vocab, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            inside = columns < vocab
            x = tl.load(logits + columns, mask=inside, other=0).to(tl.float32)
            probability = tl.exp(x - normaliser) - tl.where(columns == label, 1.0, 0.0)
            tl.store(logits + columns, probability.to(logits.dtype.element_ty), mask=inside)
