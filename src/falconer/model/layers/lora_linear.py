"""A frozen linear layer with its LoRA as one step of autograd.

The LoRA's matrices are trained in fp32 and multiplied in the dtype of the weights, as under autocast. What is stored is
the input, or what it is made from (`again.py`), and the inner activation; the dropout's mask is that of a seed. Each
layer has one seed for a pass (`Refresh`).

Shapes: M tokens, K inputs, N outputs, R LoRA rank.
"""

from falconer.model.bnb import bnb as _bnb  # noqa: F401  before peft

# isort: split
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import Conv1D

from falconer.kernels import generic_reference
from falconer.kernels.formats import Dropout
from falconer.model.falcon.adapters import Adapter, adapter_of, why_not_plain
from falconer.model.falcon.frozen_linear import FrozenLinear, is_nf4
from falconer.model.layers.again import Again, again_of


class OwnLoraLinear:
    """The forward pass of one linear layer with its LoRA.

    Args:
        module: PEFT's layer; `why_not_own` returns "" for it.
        ops: of `layers.ops`.
        dtype: of the weights, of the products and of what is stored.
    """

    def __init__(self, module: Any, ops: ModuleType, dtype: torch.dtype) -> None:
        self.module, self.ops, self._dtype = module, ops, dtype
        self.base = module.get_base_layer()
        adapter = _adapter(module)
        self.a, self.b, self.scale = adapter.a, adapter.b, adapter.scale
        name = next(name for name in module.active_adapters if name in module.lora_A)
        self._dropout, self._active = module.lora_dropout[name], list(module.active_adapters)
        self._frozen = (
            FrozenLinear(self.base, ops, dtype, fp8=False, cache_weights=False) if is_nf4(self.base) else None
        )
        # The dropout's, an int64 scalar on a GPU; None where `ops` draw a mask instead. See `Refresh`.
        self.seed: torch.Tensor | None = None
        # In the dtype of the products; `Refresh` writes them before each pass.
        self.cast_a = torch.empty_like(self.a, dtype=dtype, requires_grad=False)
        self.cast_b = torch.empty_like(self.b, dtype=dtype, requires_grad=False)

    def __call__(self, x: torch.Tensor, *others: Any, **named: Any) -> torch.Tensor:
        module = self.module
        is_usual = not (others or named or module.disable_adapters or module.merged) and x.dtype == self._dtype
        if not is_usual or list(module.active_adapters) != self._active:
            return type(module).forward(module, x, *others, **named)
        x = x.contiguous()
        return _LoraLinear.apply(x, self.a, self.b, self, again_of(x) if torch.is_grad_enabled() else None)

    @property
    def share(self) -> float:
        """The share of the input that is dropped now; 0 outside of training."""
        dropout = self._dropout
        return float(dropout.p) if isinstance(dropout, nn.Dropout) and dropout.training else 0.0

    def sample(self, num_rows: int) -> Dropout | None:
        """Return the dropout for the rows of a pass; None outside of training."""
        share = self.share
        if not share:
            return None
        if self.seed is not None:
            return Dropout(share, self.seed)
        found: Dropout = self.ops.sample_dropout(num_rows, self.a.shape[1], share, self.a.device)
        return found

    def grad_input(self, grad_MN: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the input [M, K] that the frozen layer brings."""
        if self._frozen is not None:
            return self._frozen.grad_input(grad_MN)
        weight = self.base.weight
        return grad_MN @ (weight.T if isinstance(self.base, Conv1D) else weight)


class _LoraLinear(torch.autograd.Function):
    """`base(x) + scale * dropout(x) A^T B^T`, differentiable in x, A and B."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, own: OwnLoraLinear, again: Again | None
    ) -> torch.Tensor:
        rows_MK = x.view(-1, x.shape[-1])
        out: torch.Tensor = own.base(x)
        dropout = own.sample(len(rows_MK))
        inner_MR = own.ops.lora_down(rows_MK, own.cast_a, dropout)
        out.view(-1, out.shape[-1]).addmm_(inner_MR, own.cast_b.T, alpha=own.scale)
        if any(ctx.needs_input_grad):
            mask = dropout.mask if dropout else None
            assert mask is None or isinstance(mask, torch.Tensor)
            ctx.save_for_backward(inner_MR, mask, *(again.tensors if again else (rows_MK,)))
            ctx.own, ctx.shape, ctx.share = own, x.shape, dropout.share if dropout else 0.0
            ctx.compute, ctx.shared = (again.compute, again.shared) if again else (None, None)
            if again:
                again.shared.wait()
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        own: OwnLoraLinear = ctx.own
        inner_MR, mask, *stored = ctx.saved_tensors
        width = ctx.shape[-1]
        rows_MK = ctx.shared.take(lambda: ctx.compute(*stored)).view(-1, width) if ctx.compute else stored[0]
        dropout = None if mask is None else Dropout(ctx.share, mask)
        grad_MN = grads[0].reshape(-1, grads[0].shape[-1]).contiguous()
        grad_b = (grad_MN.T @ inner_MR).to(own.b.dtype) * own.scale
        grad_MR = (grad_MN @ own.cast_b) * own.scale
        grad_a = own.ops.lora_grad_a(grad_MR, rows_MK, dropout).to(own.a.dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_MK = own.grad_input(grad_MN)
            own.ops.lora_grad_input_(grad_MK, grad_MR, own.cast_a, dropout)
            grad_x = grad_MK.view(ctx.shape)
        return grad_x, grad_a, grad_b, None, None


class Refresh:
    """What is done before each pass: LoRAs are written as they are now in the dtype of the products, and seeds drawn.

    The seeds are those of torch's CPU generator, so that dropout is a function of the seed of a step. There is one for
    each layer, in the model's order: a block that a pass with checkpoints computes again has the same dropout again.

    Args:
        layers: all of a model.
    """

    def __init__(self, layers: list[OwnLoraLinear]) -> None:
        self._layers = layers
        self._device = layers[0].a.device
        # Plain torch draws masks, one at a time.
        self.has_seeds = self._device.type == "cuda" and layers[0].ops is not generic_reference
        self._given: torch.Tensor | None = None

    def __call__(self, *_: object) -> None:
        if self.has_seeds and self.drops:
            seeds = self._given
            if seeds is None:
                seeds = self.draw().pin_memory().to(self._device, non_blocking=True)
            for own, seed in zip(self._layers, seeds.unbind(), strict=True):
                own.seed = seed
        with torch.no_grad():
            torch._foreach_copy_([m for own in self._layers for m in (own.cast_a, own.cast_b)], [
                m for own in self._layers for m in (own.a, own.b)
            ])  # fmt: skip

    @property
    def drops(self) -> bool:
        """Whether any layer has a dropout now."""
        return any(own.share for own in self._layers)

    @property
    def num_seeds(self) -> int:
        """The number of seeds that a pass needs."""
        return len(self._layers)

    def draw(self) -> torch.Tensor:
        """Draw the seeds of a pass on the host, int64 [num_seeds]; zeros where nothing is dropped."""
        return torch.randint(2**31, (self.num_seeds,)) if self.drops else torch.zeros(self.num_seeds, dtype=torch.int64)

    @contextmanager
    def given(self, seeds: torch.Tensor) -> Iterator[None]:
        """Let passes read their seeds from a tensor, int64 [num_seeds], instead of drawing them."""
        self._given = seeds
        try:
            yield
        finally:
            self._given = None


def why_not_own(module: LoraLayer) -> str:
    """Return why a layer's LoRA has to be computed by PEFT; "" if it does not."""
    reason = why_not_plain(module)
    if reason:
        return reason
    base: Any = module.get_base_layer()
    if not (is_nf4(base) or (isinstance(base, (nn.Linear, Conv1D)) and base.weight.is_floating_point())):
        return f"its layer is of type {type(base).__name__}"
    if adapter_of(module) is None:
        return "its adapter is switched off"
    if any(parameter.requires_grad for parameter in base.parameters()):
        return "its layer is trained, too"
    return ""


def _adapter(module: Any) -> Adapter:
    found = adapter_of(module)
    assert found is not None, "see why_not_own"
    return found
