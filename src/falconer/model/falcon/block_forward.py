"""The forward pass of one block, in two parts: what the backward pass needs, and the rest.

             inner_values                                        |  branches
                                                                 |
    norm --+--> query_key_value -> rotate -> [qkv] -> attention -> [attended] --> dense ------------------> attention's
           |                                                     |
           +--> dense_h_to_4h ---------------------------> [pre] ---> GELU -> dense_4h_to_h --------------> the MLP's

In brackets is what the backward pass needs; of the right part it only needs the low-rank activations of two LoRAs.
So only `inner_values`, half of the work of the base matmuls, is recomputed in lean memory.

In a layout with two norms, one stands before query_key_value, the other one before dense_h_to_4h. Both branches are
added to the residual stream by the kernel of the next block's norms.

Shapes: M tokens, D hidden, Q query heads, G key/value heads, H head size, F ffn, R LoRA rank; N = (Q + 2 G) * H.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from falconer.kernels.formats import (
    Attended,
    Dropout,
    Fp8,
    Heads,
    Layout,
    Norm,
    Normed,
    Operand,
    Want,
    fp8_of,
    plain_of,
)
from falconer.model.falcon.adapters import Adapter
from falconer.model.falcon.frozen_linear import FrozenLinear
from falconer.model.falcon.layout import DENSE, DOWN, LINEARS, QKV, UP


@dataclass(frozen=True, slots=True)
class Block:
    """One layer: its norms, one or two, the modules of its linear layers, and their frozen parts."""

    norms: tuple[Norm, ...]
    modules: dict[str, Any]
    frozen: dict[str, FrozenLinear]


@dataclass(frozen=True, slots=True)
class Shared:
    """What all blocks of a model have in common.

    Args:
        ops: `kernels.reference` or `kernels.fused`.
        dtype: of weights and activations.
        fp8: base matmuls in FP8.
        cos, sin: of every position's angles, fp32 [positions, H / 2].
    """

    ops: ModuleType
    dtype: torch.dtype
    device: torch.device
    fp8: bool
    heads: Heads
    cos: torch.Tensor
    sin: torch.Tensor

    def want(self, *, plain: bool) -> Want:
        """Return the forms of a result that a base matmul needs and, if `plain`, an adapter."""
        if not self.fp8:
            return Want.PLAIN
        return Want.BOTH if plain else Want.FP8

    def operand(self, x: torch.Tensor) -> Operand:
        """Return a matrix in the form that the base matmuls need."""
        if not self.fp8:
            return x
        quantised: Fp8 = self.ops.quantise(x)
        return quantised

    def sample_dropouts(self, adapters: dict[str, Adapter], num_tokens: int) -> dict[str, Dropout]:
        """Sample the dropout of a block's LoRA inputs, in the same order as the model itself."""
        return {
            name: self.ops.sample_dropout(num_tokens, adapters[name].a.shape[1], adapters[name].dropout, self.device)
            for name in LINEARS
            if name in adapters and adapters[name].dropout > 0
        }


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a batch: their number, their layout, and the position of each in its dialogue, int64 [M]."""

    number: int
    layout: Layout
    positions: torch.Tensor


@dataclass(frozen=True, slots=True)
class BlockPass:
    """One block in a pass over one batch.

    Args:
        adapters: its LoRAs at the start of the pass, in the dtype of the matmuls.
        dropouts: the dropout of their inputs.
        rows: int64; the tokens for which its MLP and its dense layer are computed, None for all. In the last block,
            those whose output is needed.
    """

    block: Block
    shared: Shared
    tokens: Tokens
    adapters: dict[str, Adapter]
    dropouts: dict[str, Dropout]
    rows: torch.Tensor | None

    def are_alike(self, *names: str) -> bool:
        """Return whether layers have LoRAs of equal rank and dropout."""
        found = [self.adapters.get(name) for name in names]
        kinds = {(adapter.a.shape, adapter.dropout) if adapter else None for adapter in found}
        return None not in kinds and len(kinds) == 1


@dataclass(frozen=True, slots=True)
class Inner:
    """The values of a block that its backward pass needs.

    Args:
        normed: the output of attention's norm, as its input [M, D] and statistics.
        for_mlp, for_dense: inputs of the MLP (its norm's output) and of the dense layer (attention's output) at the
            rows that are computed.
        qkv: the rotated projection [M, N].
        attended: attention's output [M, Q * H], and its sums.
        pre: the MLP before its GELU [M, F].
        low: the LoRAs' low-rank activations [M, R] by layer; `branches` adds two, which lean memory recomputes.
    """

    normed: Normed
    for_mlp: Normed
    for_dense: torch.Tensor
    qkv: torch.Tensor
    attended: Attended
    pre: torch.Tensor
    low: dict[str, torch.Tensor]


def inner_values(at: BlockPass, outputs: Sequence[tuple[Normed, Operand]]) -> Inner:
    """Compute the part of a block that the backward pass needs: attention, and the MLP up to its GELU.

    Args:
        outputs: of the block's norms, each to be recomputed and in the form for base matmuls.
    """
    (normed, x), (for_mlp, x_mlp) = outputs[0], outputs[-1]
    shared, ops, frozen, adapters, dropouts = at.shared, at.shared.ops, at.block.frozen, at.adapters, at.dropouts
    low: dict[str, torch.Tensor] = {}
    qkv = frozen[QKV].product(x)
    if at.rows is None and normed is for_mlp and at.are_alike(QKV, UP):
        # Both read the norm's output, which is recomputed once for both.
        low[QKV], low[UP] = ops.lora_down_pair(
            normed, adapters[QKV].a, dropouts.get(QKV), adapters[UP].a, dropouts.get(UP)
        )
    elif QKV in adapters:
        low[QKV] = ops.lora_down(normed, adapters[QKV].a, dropouts.get(QKV))
    b = adapters[QKV].b if QKV in adapters else None
    ops.rotate_(qkv, low.get(QKV), b, shared.cos, shared.sin, at.tokens.positions, shared.heads)
    attended = ops.attention(qkv, at.tokens.layout, shared.heads)
    for_dense = attended.out
    if at.rows is not None:
        x_mlp, for_mlp, for_dense = _operand_at(x_mlp, at.rows), _normed_at(for_mlp, at.rows), attended.out[at.rows]
    pre = frozen[UP].product(x_mlp)
    if UP in adapters:
        if UP not in low:
            low[UP] = ops.lora_down(for_mlp, adapters[UP].a, dropouts.get(UP))
        pre.addmm_(low[UP], adapters[UP].b.T)
    return Inner(normed, for_mlp, for_dense, qkv, attended, pre, low)


def branches(at: BlockPass, inner: Inner) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a block adds to the residual stream: attention's branch and the MLP's, [M or len(rows), D]."""
    shared, ops, frozen, adapters = at.shared, at.shared.ops, at.block.frozen, at.adapters
    attention_branch = frozen[DENSE].product(shared.operand(inner.for_dense))
    if DENSE in adapters:
        inner.low[DENSE] = ops.lora_down(inner.for_dense, adapters[DENSE].a, at.dropouts.get(DENSE))
        attention_branch.addmm_(inner.low[DENSE], adapters[DENSE].b.T)
    activated = ops.gelu(inner.pre, shared.want(plain=DOWN in adapters))
    mlp_branch = frozen[DOWN].product(activated)
    if DOWN in adapters:
        inner.low[DOWN] = ops.lora_down(plain_of(activated), adapters[DOWN].a, at.dropouts.get(DOWN))
        mlp_branch.addmm_(inner.low[DOWN], adapters[DOWN].b.T)
    return attention_branch, mlp_branch


def _operand_at(x: Operand, rows: torch.Tensor) -> Operand:
    """Return some rows of a matrix in the form for base matmuls."""
    if isinstance(x, torch.Tensor):
        return x[rows]
    whole = fp8_of(x)
    # As bytes: torch has no indexing for 8-bit floats.
    return Fp8(whole.values.view(torch.uint8)[rows].view(whole.values.dtype), whole.scale[rows])


def _normed_at(x: Normed, rows: torch.Tensor) -> Normed:
    return Normed(x.hidden[rows], x.mean[rows], x.rstd[rows], x.norm)
