import pytest
import torch

from falconer.kernels import generic_fused, generic_reference
from falconer.kernels.formats import ACTIVATIONS
from kernel_rule import exactly, hold_to_rule


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(1, 1), (2, 3, 64), (5, 1025)])
def test_the_product_and_its_gradients(place, act, shape):
    grad, gate, up = place.random(*shape), 3 * place.random(*shape), place.random(*shape)
    exact = tuple(map(exactly, (grad, gate, up)))
    hold_to_rule(
        generic_fused.gated(gate, up, act), generic_reference.gated(gate, up, act),
        generic_reference.gated(*exact[1:], act),
    )  # fmt: skip
    triples = zip(
        generic_fused.gated_grad(grad, gate, up, act), generic_reference.gated_grad(grad, gate, up, act),
        generic_reference.gated_grad(*exact, act), strict=True,
    )  # fmt: skip
    for ours, plain, whole in triples:
        hold_to_rule(ours, plain, whole)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_far_out_values(place, act):
    gate = torch.tensor([[-300.0, -20.0, 0.0, 20.0, 300.0]]).to(place.device, place.dtype)
    one = torch.ones_like(gate)
    of_gate, of_up = generic_fused.gated_grad(one, gate, one, act)
    expected = torch.tensor([[0.0, 0.0, 0.0, 20.0, 300.0]]).to(gate)
    torch.testing.assert_close(generic_fused.gated(gate, one, act), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(of_up, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(of_gate, torch.tensor([[0.0, 0.0, 0.5, 1.0, 1.0]]).to(gate), rtol=0, atol=1e-6)
