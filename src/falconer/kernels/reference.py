"""The operations of the fast path in plain torch: used on the CPU, and the oracle for the Triton kernels.

Each function takes and gives what its twin in `fused` does. Statistics and sums are in fp32, or in fp64 for fp64 input.

Shapes: M rows (tokens), D hidden, K inputs, N outputs, Q query heads, G key/value heads, E query heads of each of them,
H head size, R LoRA rank, V vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from falconer.kernels.formats import (
    FP8,
    FP8_MAX,
    SMALLEST_SCALE,
    Both,
    Dropout,
    Fp8,
    Heads,
    Nf4,
    Norm,
    Normed,
    Operand,
    Want,
)
from falconer.kernels.reference_attention import attention as attention
from falconer.kernels.reference_attention import attention_grad as attention_grad
from falconer.kernels.reference_attention import branch_attention as branch_attention
from falconer.kernels.reference_attention import grouped as grouped


def dequantise(weight: Nf4, dtype: torch.dtype) -> torch.Tensor:
    """Return a weight [N, K] in `dtype`, rounded once."""
    high, low = weight.packed.flatten() >> 4, weight.packed.flatten() & 15
    codes = torch.stack([high, low], dim=1).flatten().int()
    absmax = weight.absmax.float()
    if weight.nested_code is not None and weight.nested_absmax is not None and weight.offset is not None:
        scales = weight.nested_absmax.repeat_interleave(weight.nested_block_size)[: len(weight.absmax)]
        absmax = weight.nested_code[weight.absmax.int()] * scales + weight.offset
    values = weight.code[codes] * absmax.repeat_interleave(weight.block_size)[: len(codes)]
    return values.view(weight.shape).to(dtype)


def nf4_product(x_MK: torch.Tensor, weight: Nf4) -> torch.Tensor:
    """Return x times the transposed weight, [M, N], for the few rows of a conversation."""
    return F.linear(x_MK, dequantise(weight, x_MK.dtype))


def dequantise_fp8(weight: Nf4, scale: torch.Tensor, transposed: bool) -> Fp8:
    """Return a weight in FP8 as a product wants it: [N, K], or [K, N] for the gradient of its input.

    Args:
        scale: fp32 [N, 1], or [K, 1] if `transposed`; see `weight_scales`.
    """
    values = dequantise(weight, torch.float32)
    return Fp8(_to_fp8((values.T if transposed else values).contiguous(), scale), scale)


def weight_scales(weight_NK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the FP8 scales of a weight's rows [N, 1] and of its columns [K, 1], fp32."""
    size = weight_NK.abs()
    rows, columns = size.amax(dim=1).float(), size.amax(dim=0).float()
    return tuple((amax / FP8_MAX).clamp_min(SMALLEST_SCALE).unsqueeze(1) for amax in (rows, columns))  # type: ignore[return-value]


def quantise(x_MK: torch.Tensor) -> Fp8:
    """Return a matrix in FP8, its rows scaled by their largest value."""
    scale = (x_MK.float().abs().amax(dim=1, keepdim=True) / FP8_MAX).clamp_min(SMALLEST_SCALE)
    return Fp8(_to_fp8(x_MK.float(), scale), scale)


def scaled_product(left: Fp8, right: Fp8, dtype: torch.dtype) -> torch.Tensor:
    """Return left [M, K] times right [N, K] transposed, [M, N] in `dtype`."""
    return (dense(left) @ dense(right).T).to(dtype)


def dense(x: Fp8) -> torch.Tensor:
    """Return what an FP8 matrix stands for, fp32."""
    return x.values.float() * x.scale


def add_layer_norm(
    hidden_MD: torch.Tensor, branches: Sequence[torch.Tensor], norm: Norm, want: Want
) -> tuple[Normed, Operand]:
    """Return what `add_layer_norms` returns for one norm."""
    return add_layer_norms(hidden_MD, branches, (norm,), want)[0]


def add_layer_norms(
    hidden_MD: torch.Tensor, branches: Sequence[torch.Tensor], norms: Sequence[Norm], want: Want
) -> list[tuple[Normed, Operand]]:
    """Add a block's branches, none or two, to the residual stream and normalise it for the next block.

    Args:
        norms: one or two, with the same eps; both have the same input.

    Returns:
        For each norm: its input (the new residual stream) with its statistics, and its output.
    """
    dtype = hidden_MD.dtype
    exact = _exact(hidden_MD)
    for branch_MD in branches:
        exact = exact + _exact(branch_MD)
    summed = exact.to(dtype) if branches else hidden_MD
    exact = _exact(summed)
    mean = exact.mean(dim=1)
    centred = exact - mean.unsqueeze(1)
    rstd = torch.rsqrt(centred.square().mean(dim=1) + norms[0].eps)
    outs = [centred * rstd.unsqueeze(1) * _exact(norm.weight) + _exact(norm.bias) for norm in norms]
    return [
        (Normed(summed, mean, rstd, norm), _operand(out, dtype, want)) for norm, out in zip(norms, outs, strict=True)
    ]


def renormalise(x: Normed) -> torch.Tensor:
    """Return a LayerNorm's output [M, D] from its input and its statistics."""
    centred = (_exact(x.hidden) - x.mean.unsqueeze(1)) * x.rstd.unsqueeze(1)
    return (centred * _exact(x.norm.weight) + _exact(x.norm.bias)).to(x.hidden.dtype)


def layer_norm_grad(
    grads: Sequence[torch.Tensor], x: Normed, residual_MD: torch.Tensor | None, want: Want, second: Norm | None = None
) -> Operand:
    """Return the gradient of a LayerNorm's input, which is the residual stream, [M, D].

    Args:
        grads: of its output [M, D], one or two; they are summed.
        residual_MD: the gradient that comes by the residual stream itself.
        second: a second norm of the same input, to whose output the second of the gradients belongs.
    """
    total = _exact(grads[0])
    if second is None:
        for grad in grads[1:]:
            total = total + _exact(grad)
    scaled = total * _exact(x.norm.weight)
    if second is not None:
        scaled = scaled + _exact(grads[1]) * _exact(second.weight)
    unit = (_exact(x.hidden) - x.mean.unsqueeze(1)) * x.rstd.unsqueeze(1)
    inner = scaled - scaled.mean(dim=1, keepdim=True) - unit * (scaled * unit).mean(dim=1, keepdim=True)
    out = inner * x.rstd.unsqueeze(1)
    if residual_MD is not None:
        out = out + _exact(residual_MD)
    return _operand(out, x.hidden.dtype, want)


def gelu(x_MF: torch.Tensor, want: Want) -> Operand:
    """Return the exact GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""
    # torch computes in fp32 and rounds once, without a copy of the whole matrix.
    return F.gelu(x_MF) if want is Want.PLAIN else _operand(F.gelu(_exact(x_MF)), x_MF.dtype, want)


def gelu_grad(grad_MF: torch.Tensor, x_MF: torch.Tensor, want: Want) -> Operand:
    """Return the gradient of GELU's input."""
    if want is Want.PLAIN:
        plain: torch.Tensor = torch.ops.aten.gelu_backward(grad_MF, x_MF)
        return plain
    return _operand(torch.ops.aten.gelu_backward(_exact(grad_MF), _exact(x_MF)), x_MF.dtype, want)


def rotate_(
    qkv_MN: torch.Tensor, low_MR: torch.Tensor | None, b_NR: torch.Tensor | None, cos: torch.Tensor, sin: torch.Tensor,
    positions: torch.Tensor, heads: Heads,
) -> None:  # fmt: skip
    """Add a LoRA's product to a fused query-key-value projection and rotate queries and keys, all in place.

    Args:
        low_MR, b_NR: the LoRA's inner activation and its second matrix, scaled; None without LoRA.
        cos, sin: fp32 [longest, H / 2]; `positions` int [M] index them (RoFormer, arXiv:2104.09864).
    """
    if low_MR is not None and b_NR is not None:
        qkv_MN.addmm_(low_MR, b_NR.T)
    turned = grouped(qkv_MN, heads)[:, :, :-1]
    turned.copy_(_rotated(turned, cos[positions], sin[positions]))


def rotate_grad(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, positions: torch.Tensor,
    want: Want,
) -> Operand:  # fmt: skip
    """Return the gradient of the fused projection from those of rotated queries [M, Q, H], keys, values [M, G, H]."""
    num_rows, num_groups, size = k.shape
    q_MGEH = q.view(num_rows, num_groups, -1, size)
    heads = _rotated(torch.cat([q_MGEH, k.unsqueeze(2)], dim=2), cos[positions], -sin[positions])
    out = torch.cat([heads, v.unsqueeze(2)], dim=2).flatten(1)
    return _operand(out, out.dtype, want)


def lora_down(x: torch.Tensor | Normed, a_RK: torch.Tensor, dropout: Dropout | None) -> torch.Tensor:
    """Return a LoRA's inner activation: its input, dropped out, times its first matrix; [M, R] in that one's dtype."""
    return _dropped(x, dropout).to(a_RK.dtype) @ a_RK.T


def lora_down_pair(
    x: torch.Tensor | Normed, a_RK: torch.Tensor, dropout: Dropout | None, second_RK: torch.Tensor,
    second_dropout: Dropout | None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return the inner activations of two LoRAs that share their input, each with its own dropout."""
    values = renormalise(x) if isinstance(x, Normed) else x
    return lora_down(values, a_RK, dropout), lora_down(values, second_RK, second_dropout)


def lora_grad_a(grad_MR: torch.Tensor, x: torch.Tensor | Normed, dropout: Dropout | None) -> torch.Tensor:
    """Return the gradient of a LoRA's first matrix, [R, K], in fp32 or fp64."""
    return _exact(grad_MR).T @ _exact(_dropped(x, dropout).to(grad_MR.dtype))


def lora_grad_input_(grad_MK: torch.Tensor, grad_MR: torch.Tensor, a_RK: torch.Tensor, dropout: Dropout | None) -> None:
    """Add a LoRA's part to the gradient of its input, in place."""
    # Both in fp32, or fp64, and the sum is rounded once.
    grad_MK.add_(_dropped(_exact(grad_MR) @ _exact(a_RK), dropout))


def sample_dropout(num_rows: int, width: int, share: float, device: torch.device) -> Dropout:
    """Sample a mask from numbers of SFC64 (Doty-Humphrey 2010, PractRand), whose seed torch's CPU generator draws.

    torch draws the masks of nn.Dropout one after the other, and needs ten times as long.
    """
    if device.type == "meta":
        # Where only shapes are computed (`train.kept_activations`), nothing is drawn.
        return Dropout(share, torch.empty(num_rows, width, dtype=torch.bool, device=device))
    numbers = np.random.SFC64(int(torch.randint(2**63 - 1, ()))).random_raw(-(-num_rows * width // 2))
    kept = numbers.view(np.uint32)[: num_rows * width] >= round(share * 2**32)
    return Dropout(share, torch.from_numpy(kept).view(num_rows, width).to(device))


def cross_entropy_(logits_MV: torch.Tensor, labels: torch.Tensor, grad: bool) -> torch.Tensor:
    """Return each row's negative log-likelihood [M] in nats; with `grad`, logits become their gradient."""
    exact = _exact(logits_MV)
    nll = F.cross_entropy(exact, labels, reduction="none")
    if grad:
        probabilities = torch.softmax(exact, dim=1)
        probabilities[torch.arange(len(labels), device=labels.device), labels] -= 1
        logits_MV.copy_(probabilities)
    return nll


def hashed_mask(seed: int, num_rows: int, width: int, share: float) -> torch.Tensor:
    """Return the mask that `fused` makes of a seed, bool [M, K]: `lowbias32` of position plus seed."""
    x = lowbias32(torch.arange(num_rows * width, dtype=torch.int64) + seed)
    return (x >= round(share * 2**32)).view(num_rows, width)


def lowbias32(x: torch.Tensor) -> torch.Tensor:
    """Return the hash lowbias32 of the low 32 bits of int64 numbers, each in [0, 2^32); 0 stays 0.

    Two multiplications and no visible bias (Wellons 2018, "Prospecting for hash functions"); its twin in Triton is
    `kernels.lora.lowbias32`.
    """
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    # The factor is above 2^31, so the product may wrap in int64; its low half does not care.
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)


def _dropped(x: torch.Tensor | Normed, dropout: Dropout | None) -> torch.Tensor:
    values = renormalise(x) if isinstance(x, Normed) else x
    if dropout is None:
        return values
    assert isinstance(dropout.mask, torch.Tensor)
    # torch multiplies by bytes three times as fast as by booleans.
    return values * dropout.mask.view(torch.uint8).view(values.shape) / (1 - dropout.share)


def _rotated(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = _exact(heads).chunk(2, dim=-1)
    cos, sin = (angles[:, None, None] for angles in (cos, sin))
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(heads.dtype)


def _operand(exact: torch.Tensor, dtype: torch.dtype, want: Want) -> Operand:
    if want is Want.PLAIN:
        return exact.to(dtype)
    return quantise(exact) if want is Want.FP8 else Both(exact.to(dtype), quantise(exact))


def _to_fp8(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (x / scale).clamp(-FP8_MAX, FP8_MAX).to(FP8)


def _exact(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()
