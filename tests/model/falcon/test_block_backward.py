"""One block's backward pass against autograd through the same block in float64."""

import pytest
import torch
from torch.nn import functional as F

from falcon_tiny import LAYOUTS, tiny_falcon
from falconer.kernels import reference
from falconer.kernels.formats import Layout
from falconer.model.falcon.block_backward import block_grad
from falconer.model.falcon.block_forward import branches, inner_values
from falconer.model.falcon.layout import backbone_of, layout_of, linears_of
from falconer.model.falcon.train_pass import FastPath, _adapters
from kernel_rule import error

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTH = 11


def written_out(model, layer, hidden):
    """The block by its definition, one dialogue, with autograd; PEFT's layers do the adapters."""
    modules, layout = linears_of(layer), layout_of(model.config)
    size, norms = layout.heads.size, [getattr(layer, name) for name in layout.norms]
    outs = [F.layer_norm(hidden, (hidden.shape[1],), norm.weight, norm.bias, norm.eps) for norm in norms]
    heads = modules["query_key_value"](outs[0]).view(LENGTH, layout.heads.num_groups, -1, size)
    cos, sin = (angles[0, :, None, None] for angles in rotary_angles(model, hidden))
    turned = heads[:, :, :-1] * cos
    turned = turned + torch.cat([-heads[:, :, :-1, size // 2 :], heads[:, :, :-1, : size // 2]], -1) * sin
    scores = torch.einsum("mgqh,ngh->gqmn", turned[:, :, :-1], turned[:, :, -1]) / size**0.5
    weights = scores.masked_fill(torch.ones(LENGTH, LENGTH).triu(1).bool(), -torch.inf).softmax(-1)
    mixed = torch.einsum("gqmn,ngh->mgqh", weights, heads[:, :, -1]).flatten(1)
    inner = F.gelu(modules["dense_h_to_4h"](outs[-1]))
    return hidden + modules["dense"](mixed) + modules["dense_4h_to_h"](inner)


def rotary_angles(model, hidden):
    return backbone_of(model).rotary_emb(hidden[None], torch.arange(LENGTH)[None])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("targets", ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "all-linear"])
@pytest.mark.parametrize("is_lowest", [False, True])
@pytest.mark.parametrize("remade", [False, True])
def test_gradients_are_autograds(targets, is_lowest, remade, layout):
    model = tiny_falcon(torch.float64, targets=targets, layout=layout)
    layer = backbone_of(model).h[0]
    hidden = torch.randn(LENGTH, model.config.hidden_size, dtype=torch.float64).requires_grad_()
    grad = torch.randn_like(hidden)
    wanted = {name: module for name, module in linears_of(layer).items() if hasattr(module, "lora_A")}
    matrices = [m.weight for module in wanted.values() for m in (module.lora_A["default"], module.lora_B["default"])]
    exact, *expected = torch.autograd.grad(written_out(model, layer, hidden), (hidden, *matrices), grad)

    path = FastPath(backbone_of(model), reference, fp8=False, memory="fast", cache_weights=False)
    at = path.passes(LENGTH, Layout(1, LENGTH), None, [_adapters(block) for block in path.blocks])[0]
    want = path.shared.want(plain=False)
    inner = inner_values(at, reference.add_layer_norms(hidden.detach(), (), at.block.norms, want))
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
    normed = reference.add_layer_norms(hidden, (), at.block.norms, path.shared.want(plain=False))
    inner, called = inner_values(at, normed), []

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
