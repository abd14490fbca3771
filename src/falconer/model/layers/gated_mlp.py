"""Gated MLPs, `down(act(gate(x)) * up(x))`, without storing activation and product.

Shapes: T tokens, D hidden, F ffn.
"""

from types import ModuleType
from typing import Any

import torch

from falconer.kernels.formats import ACTIVATIONS, Activation
from falconer.kernels.generic_reference import activated
from falconer.model.layers.again import Again, attach

# What models call the parts; their order in a module does not matter.
PARTS = frozenset({"gate_proj", "up_proj", "down_proj", "act_fn"})


class OwnGatedMlp:
    """The forward pass of one gated MLP; see `mlp_of`."""

    def __init__(self, module: Any, ops: ModuleType, act: Activation) -> None:
        self._module, self._ops, self._act = module, ops, act

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        module, ops, act = self._module, self._ops, self._act
        gate, up = module.gate_proj(x).contiguous(), module.up_proj(x).contiguous()
        product: torch.Tensor = _Gated.apply(gate, up, act, ops)
        if product.requires_grad:
            attach(product, Again(lambda one, other: ops.gated(one, other, act), gate, up))
        out: torch.Tensor = module.down_proj(product)
        return out


class _Gated(torch.autograd.Function):
    """The inner product, differentiable in both factors."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor, act: Activation, ops: ModuleType) -> torch.Tensor:
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(gate, up)
            ctx.act, ctx.ops = act, ops
        out: torch.Tensor = ops.gated(gate, up, act)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        gate, up = ctx.saved_tensors
        return *ctx.ops.gated_grad(grads[0].contiguous(), gate, up, ctx.act), None, None


@torch.no_grad()
def mlp_of(module: Any, ops: ModuleType, dtype: torch.dtype) -> OwnGatedMlp | None:
    """Return the forward pass of a module that is a gated MLP; None for any other module.

    Args:
        dtype: of the weights.
    """
    if {name for name, _ in module.named_children()} != PARTS or next(module.parameters(recurse=False), None):
        return None
    width, device = getattr(module.gate_proj, "in_features", 0), next(module.parameters()).device
    points = torch.linspace(-6, 6, 97, dtype=torch.float32, device=device)
    act = next(
        (one for one in ACTIVATIONS if torch.equal(activated(points, one), _applied(module.act_fn, points))), None
    )
    if act is None or not width:
        return None
    drawn = torch.randn(1, 4, width, generator=torch.Generator().manual_seed(0))
    x = (3 * drawn).to(device, dtype)
    was_training = module.training
    module.eval()
    try:
        expected = module(x)
        found = module.down_proj(activated(module.gate_proj(x), act) * module.up_proj(x))
    except (RuntimeError, TypeError, ValueError, AttributeError):  # whatever a module raises that is made otherwise
        return None
    finally:
        module.train(was_training)
    return OwnGatedMlp(module, ops, act) if torch.equal(expected, found) else None


def _applied(act: Any, points: torch.Tensor) -> torch.Tensor:
    try:
        found: torch.Tensor = act(points)
    except (RuntimeError, TypeError, ValueError):
        return points
    return found if isinstance(found, torch.Tensor) else points
