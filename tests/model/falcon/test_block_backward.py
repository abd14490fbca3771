"""One block's backward pass against autograd through the same block in float64."""

import pytest
import torch
from torch.nn import functional as F

from falcon_tiny import tiny_falcon
from falconer.kernels import reference
from falconer.kernels.formats import Layout
from falconer.model.falcon.block_backward import block_grad
from falconer.model.falcon.block_forward import branches, inner_values
from falconer.model.falcon.layout import backbone_of, linears_of
from falconer.model.falcon.train_pass import FastPath, _adapters
from kernel_rule import error

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTH = 11


def written_out(model, layer, hidden):
    """The block by its definition, one dialogue, with autograd; PEFT's layers do the adapters."""
    modules, size = linears_of(layer), model.config.head_dim
    norm = layer.input_layernorm
    x = F.layer_norm(hidden, (hidden.shape[1],), norm.weight, norm.bias, norm.eps)
    heads = modules["query_key_value"](x).view(LENGTH, -1, size)
    cos, sin = backbone_of(model).rotary_emb(hidden[None], torch.arange(LENGTH)[None])
    turned = [
        part * cos[0, :, None] + torch.cat([-part[..., size // 2 :], part[..., : size // 2]], -1) * sin[0, :, None]
        for part in (heads[:, :-2], heads[:, -2:-1])
    ]
    scores = torch.einsum("mqh,nh->qmn", turned[0], turned[1][:, 0]) / size**0.5
    weights = scores.masked_fill(torch.ones(LENGTH, LENGTH).triu(1).bool(), -torch.inf).softmax(-1)
    mixed = torch.einsum("qmn,nh->mqh", weights, heads[:, -1]).flatten(1)
    inner = F.gelu(modules["dense_h_to_4h"](x))
    return hidden + modules["dense"](mixed) + modules["dense_4h_to_h"](inner)


@pytest.mark.parametrize("targets", ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "all-linear"])
@pytest.mark.parametrize("is_lowest", [False, True])
@pytest.mark.parametrize("remade", [False, True])
def test_gradients_are_autograds(targets, is_lowest, remade):
    model = tiny_falcon(torch.float64, targets=targets)
    layer = backbone_of(model).h[0]
    hidden = torch.randn(LENGTH, model.config.hidden_size, dtype=torch.float64).requires_grad_()
    grad = torch.randn_like(hidden)
    wanted = {name: module for name, module in linears_of(layer).items() if hasattr(module, "lora_A")}
    matrices = [m.weight for module in wanted.values() for m in (module.lora_A["default"], module.lora_B["default"])]
    exact, *expected = torch.autograd.grad(written_out(model, layer, hidden), (hidden, *matrices), grad)

    path = FastPath(backbone_of(model), reference, fp8=False, memory="fast", cache_weights=False)
    at = path.passes(LENGTH, Layout(1, LENGTH), None, [_adapters(block) for block in path.blocks])[0]
    normed, x = reference.add_layer_norm(hidden.detach(), (), at.block.norm, path.shared.want(plain=False))
    inner = inner_values(at, normed, x)
    if not remade:
        # As in fast memory, where the forward pass has left all inner activations.
        branches(at, inner)
    grad_hidden, grads = block_grad(at, inner, grad, is_lowest)
    assert grads.keys() == wanted.keys()
    found = [matrix for name in wanted for matrix in grads[name]]
    assert all(error(one, other) < 1e-6 for one, other in zip(found, expected, strict=True))
    assert (grad_hidden is None) == is_lowest
    if grad_hidden is not None:
        assert error(grad_hidden, exact) < 1e-6


@pytest.mark.parametrize(
    ("targets", "skipped"),
    [
        ("dense_4h_to_h", {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
        ("dense_h_to_4h", {"query_key_value", "dense", "dense_h_to_4h"}),
        ("query_key_value", {"query_key_value", "dense_h_to_4h", "dense_4h_to_h"}),
    ],
)
def test_the_lowest_block_does_no_base_matmul_that_leads_only_below(targets, skipped):
    model = tiny_falcon(torch.float64, targets=targets)
    path = FastPath(backbone_of(model), reference, fp8=False, memory="fast", cache_weights=False)
    at = path.passes(LENGTH, Layout(1, LENGTH), None, [_adapters(block) for block in path.blocks])[0]
    hidden = torch.randn(LENGTH, model.config.hidden_size, dtype=torch.float64)
    normed, x = reference.add_layer_norm(hidden, (), at.block.norm, path.shared.want(plain=False))
    inner, called = inner_values(at, normed, x), []

    class Watched:
        def __init__(self, name, linear):
            self.name, self.linear = name, linear

        def grad_input(self, grad):
            called.append(self.name)
            return self.linear.grad_input(grad)

    at.block.frozen.update({name: Watched(name, linear) for name, linear in at.block.frozen.items()})
    block_grad(at, inner, torch.randn_like(hidden), is_lowest=True)
    assert set(called) == {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"} - skipped
    assert len(called) == len(set(called))
