"""The backward pass of one block: the gradients of its input and its adapters from that of its output.

          +--> dense_4h_to_h -> GELU's slope -> dense_h_to_4h -----------+             _mlp_grad
          |                                                              |
    grad -+--> dense -> attention -> rotate back -> query_key_value --- (+) -> norm -+  _attention_grad
          |                                                                          |
          +--> the residual stream ------------------------------------------------ (+) -> grad of the input

The base is frozen, so a base matmul has a gradient of its input alone. An adapter has three: of its two matrices, and
its part in the gradient of its input, which is added to the base's in place. The lowest of the trained blocks
(`is_lowest`) computes no gradient of its input: no adapter below needs one.

Memory: a step's peak is here, so each gradient of width F is freed as soon as the next one is computed.

Shapes: M tokens, D hidden, K inputs, N outputs of one layer, R LoRA rank.
"""

import torch

from falconer.kernels.formats import Normed, Operand, Want, plain_of
from falconer.model.falcon.block_forward import BlockPass, Inner
from falconer.model.falcon.layout import DENSE, DOWN, QKV, UP

# An adapter's gradients by layer: of its first matrix and of its second.
Grads = dict[str, tuple[torch.Tensor, torch.Tensor]]


def block_grad(at: BlockPass, inner: Inner, grad: Operand, is_lowest: bool) -> tuple[Operand | None, Grads]:
    """Return the gradient of a block's input (None if `is_lowest`), and its adapters'.

    Args:
        grad: of the block's output, which both branches and the residual stream share.
    """
    grads: Grads = {}
    by_mlp = _mlp_grad(at, inner, grad, is_lowest, grads)
    by_attention = _attention_grad(at, inner, grad, is_lowest, grads)
    if by_mlp is None or by_attention is None:
        return None, grads
    residual = _at_all_rows(at, plain_of(grad))
    want, norms = at.shared.want(plain=True), at.block.norms
    second = norms[1] if len(norms) == 2 else None
    return at.shared.ops.layer_norm_grad([by_attention, by_mlp], inner.normed, residual, want, second), grads


def _mlp_grad(at: BlockPass, inner: Inner, grad: Operand, is_lowest: bool, grads: Grads) -> torch.Tensor | None:
    """Return the gradient of the norm's output through the MLP [M, D], None if `is_lowest`; fill `grads`."""
    shared, ops, frozen, adapters = at.shared, at.shared.ops, at.block.frozen, at.adapters
    goes_on = not is_lowest or UP in adapters
    grad_activated = frozen[DOWN].grad_input(grad) if goes_on else None
    if DOWN in adapters:
        activated = ops.gelu(inner.pre, Want.PLAIN)
        grads[DOWN] = _adapter_grad(at, inner, DOWN, plain_of(grad), activated, grad_activated)
        del activated
    if grad_activated is None:
        return None
    grad_pre = ops.gelu_grad(grad_activated, inner.pre, shared.want(plain=UP in adapters))
    del grad_activated
    grad_normed = None if is_lowest else frozen[UP].grad_input(grad_pre)
    if UP in adapters:
        grads[UP] = _adapter_grad(at, inner, UP, plain_of(grad_pre), inner.for_mlp, grad_normed)
    del grad_pre
    return None if grad_normed is None else _at_all_rows(at, grad_normed)


def _attention_grad(at: BlockPass, inner: Inner, grad: Operand, is_lowest: bool, grads: Grads) -> torch.Tensor | None:
    """Return the gradient of the norm's output through attention, as `_mlp_grad`."""
    shared, ops, frozen, adapters = at.shared, at.shared.ops, at.block.frozen, at.adapters
    goes_on = not is_lowest or QKV in adapters
    grad_attended = frozen[DENSE].grad_input(grad) if goes_on else None
    if DENSE in adapters:
        grads[DENSE] = _adapter_grad(at, inner, DENSE, plain_of(grad), inner.for_dense, grad_attended)
    if grad_attended is None:
        return None
    grad_attended = _at_all_rows(at, grad_attended)
    heads = ops.attention_grad(grad_attended, inner.qkv, inner.attended, at.tokens.layout, shared.heads)
    grad_qkv = ops.rotate_grad(*heads, shared.cos, shared.sin, at.tokens.positions, shared.want(plain=QKV in adapters))
    del heads, grad_attended
    grad_normed = None if is_lowest else frozen[QKV].grad_input(grad_qkv)
    if QKV in adapters:
        grads[QKV] = _adapter_grad(at, inner, QKV, plain_of(grad_qkv), inner.normed, grad_normed)
    return grad_normed


def _adapter_grad(
    at: BlockPass, inner: Inner, name: str, grad_MN: torch.Tensor, x: torch.Tensor | Normed,
    grad_MK: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return the gradients of a LoRA's two matrices, and add its part to the gradient of its input.

    Args:
        grad_MN: of the layer's output.
        x: the layer's input.
        grad_MK: of its input, changed in place; None if it is not needed.
    """
    ops, adapter, dropout = at.shared.ops, at.adapters[name], at.dropouts.get(name)
    low_MR = inner.low.get(name)
    if low_MR is None:
        low_MR = ops.lora_down(x, adapter.a, dropout)
    grad_low = grad_MN @ adapter.b
    found = (ops.lora_grad_a(grad_low, x, dropout), adapter.scale * (grad_MN.T @ low_MR))
    if grad_MK is not None:
        ops.lora_grad_input_(grad_MK, grad_low, adapter.a, dropout)
    return found


def _at_all_rows(at: BlockPass, grad: torch.Tensor) -> torch.Tensor:
    """Expand a gradient at the computed rows to all tokens, zero elsewhere."""
    if at.rows is None:
        return grad
    return grad.new_zeros(at.tokens.number, grad.shape[1]).index_copy_(0, at.rows, grad)
