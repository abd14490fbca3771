"""The oracle of every kernel, against torch's own operations and autograd in float64."""

import pytest
import torch
from torch.nn import functional as F

from falconer.kernels import reference
from falconer.kernels.formats import Dropout, Heads, Norm, Want, fp8_of

DOUBLE = torch.float64


def random(*shape):
    return torch.randn(*shape, dtype=DOUBLE)


def test_a_norm_after_its_sum_and_its_gradient():
    hidden, first, second = (random(7, 96).requires_grad_() for _ in range(3))
    norm, grad, residual = Norm(random(96), random(96), 1e-5), random(7, 96), random(7, 96)
    summed = hidden + first + second
    expected = F.layer_norm(summed, (96,), norm.weight, norm.bias, norm.eps)
    normed, out = reference.add_layer_norm(hidden.detach(), (first.detach(), second.detach()), norm, Want.PLAIN)
    torch.testing.assert_close(out, expected.detach())
    torch.testing.assert_close(normed.hidden, summed.detach())
    torch.testing.assert_close(reference.renormalise(normed), expected.detach())
    (by_norm,) = torch.autograd.grad(expected, hidden, grad)
    found = reference.layer_norm_grad([0.25 * grad, 0.75 * grad], normed, residual, Want.PLAIN)
    torch.testing.assert_close(found, by_norm + residual)


def test_gelu_and_its_gradient():
    x, grad = 3 * random(5, 80), random(5, 80)
    x.requires_grad_()
    expected = F.gelu(x)
    torch.testing.assert_close(reference.gelu(x.detach(), Want.PLAIN), expected.detach())
    (slope,) = torch.autograd.grad(expected, x, grad)
    torch.testing.assert_close(reference.gelu_grad(grad, x.detach(), Want.PLAIN), slope)


def test_a_rotation_keeps_lengths_and_its_gradient_turns_back():
    angles, positions = random(40, 32), torch.randint(40, (11,))
    qkv = random(11, 5 * 64)
    turned = qkv.clone()
    reference.rotate_(turned, None, None, angles.cos(), angles.sin(), positions, Heads(1, 3, 64))
    heads, before = turned.view(11, 5, 64), qkv.view(11, 5, 64)
    torch.testing.assert_close(heads.norm(dim=2), before.norm(dim=2))
    assert torch.equal(heads[:, -1], before[:, -1]) and not torch.allclose(heads[:, :-1], before[:, :-1])
    parts = heads[:, :3], heads[:, 3:4], heads[:, 4:]
    back = reference.rotate_grad(*parts, angles.cos(), angles.sin(), positions, Want.PLAIN)
    torch.testing.assert_close(back, qkv)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_loras_products_are_autograds(share):
    x, a, grad = random(9, 48).requires_grad_(), random(4, 48).requires_grad_(), random(9, 4)
    dropout = reference.sample_dropout(9, 48, share, torch.device("cpu")) if share else None
    dropped = x if dropout is None else x * dropout.mask / (1 - share)
    low = dropped @ a.T
    grad_x, grad_a = torch.autograd.grad(low, (x, a), grad)
    torch.testing.assert_close(reference.lora_down(x.detach(), a.detach(), dropout), low.detach())
    torch.testing.assert_close(reference.lora_grad_a(grad, x.detach(), dropout), grad_a)
    found = torch.ones_like(grad_x)
    reference.lora_grad_input_(found, grad, a.detach(), dropout)
    torch.testing.assert_close(found, 1 + grad_x)


def test_cross_entropy_leaves_its_gradient_in_the_logits():
    logits, labels = random(6, 50).requires_grad_(), torch.randint(50, (6,))
    expected = F.cross_entropy(logits, labels, reduction="none")
    (slope,) = torch.autograd.grad(expected.sum(), logits)
    in_place = logits.detach().clone()
    torch.testing.assert_close(reference.cross_entropy_(in_place, labels, grad=True), expected.detach())
    torch.testing.assert_close(in_place, slope)
    untouched = logits.detach().clone()
    reference.cross_entropy_(untouched, labels, grad=False)
    assert torch.equal(untouched, logits.detach())


def test_fp8_keeps_a_rows_largest_value_and_a_product_within_its_three_bits():
    left, right = reference.quantise(random(8, 256).float()), reference.quantise(random(5, 256).float())
    exact = reference.dense(left).double() @ reference.dense(right).double().T
    torch.testing.assert_close(
        reference.scaled_product(left, right, torch.float32).double(), exact, rtol=1e-5, atol=1e-4
    )
    assert fp8_of(left).scale.shape == (8, 1)


def test_a_hashed_mask_keeps_its_share():
    mask = reference.hashed_mask(77, 200, 300, 0.1)
    assert mask.shape == (200, 300) and abs(float(mask.double().mean()) - 0.9) < 0.005
    kept = reference.lora_down(torch.ones(200, 300), torch.ones(1, 300), Dropout(0.1, mask))
    torch.testing.assert_close(kept.flatten(), mask.sum(dim=1) / 0.9)
