"""A frozen linear layer's product and input gradient, from whole and from 4-bit weights, in both precisions."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from falconer.kernels import fused, reference
from falconer.kernels.formats import NF4_ROWS, Both
from falconer.model.bnb import bnb
from falconer.model.falcon.frozen_linear import FrozenLinear, LinearPair, is_nf4
from kernel_rule import error
from rows_on_cpu import PlainRowKernel

INPUTS, OUTPUTS = 128, 96


def whole_layer():
    layer = nn.Linear(INPUTS, OUTPUTS, bias=False)
    return layer.requires_grad_(False)


def nf4_layer(quant_type="nf4"):
    layer = bnb.nn.Linear4bit(INPUTS, OUTPUTS, bias=False, compute_dtype=torch.float32, quant_type=quant_type)
    weight = torch.randn(OUTPUTS, INPUTS) * 0.05
    layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type=quant_type).to("cpu")
    return layer


def weight_of(layer):
    if not is_nf4(layer):
        return layer.weight.detach()
    return bnb.functional.dequantize_4bit(layer.weight, layer.weight.quant_state)


def frozen(layer, ops=reference, **settings):
    return FrozenLinear(layer, ops, torch.float32, **({"fp8": False, "cache_weights": False} | settings))


@pytest.mark.parametrize("make", [whole_layer, nf4_layer])
@pytest.mark.parametrize("cache_weights", [False, True])
def test_product_and_gradient_are_those_of_the_weight(make, cache_weights):
    layer = make()
    linear, weight = frozen(layer, cache_weights=cache_weights), weight_of(layer)
    x, grad = torch.randn(20, INPUTS), torch.randn(20, OUTPUTS)
    torch.testing.assert_close(linear.product(x), F.linear(x, weight))
    torch.testing.assert_close(linear.grad_input(grad), grad @ weight)


@pytest.mark.parametrize("make", [whole_layer, nf4_layer])
@pytest.mark.parametrize("cache_weights", [False, True])
def test_in_fp8_it_takes_operands_in_fp8_and_errs_by_a_few_per_cent(make, cache_weights):
    layer = make()
    linear, weight = frozen(layer, fp8=True, cache_weights=cache_weights), weight_of(layer)
    x, grad = torch.randn(20, INPUTS), torch.randn(20, OUTPUTS)
    for given, multiply, exact in (
        (x, linear.product, F.linear(x, weight)),
        (grad, linear.grad_input, grad @ weight),
    ):
        alone = multiply(reference.quantise(given))
        assert error(alone, exact) < 0.05
        assert torch.equal(alone, multiply(Both(given, reference.quantise(given))))
        with pytest.raises(TypeError, match="wanted FP8 or BOTH"):
            multiply(given)


def test_a_plain_layer_refuses_what_is_there_in_fp8_alone():
    with pytest.raises(TypeError, match="wanted BOTH"):
        frozen(whole_layer()).product(reference.quantise(torch.randn(2, INPUTS)))


@pytest.mark.parametrize("cache_weights", [False, True])
def test_cached_weights_are_dequantised_once(monkeypatch, cache_weights):
    calls = []
    dequantise = reference.dequantise
    monkeypatch.setattr(reference, "dequantise", lambda *args: calls.append(1) or dequantise(*args))
    linear = frozen(nf4_layer(), cache_weights=cache_weights)
    for _ in range(3):
        linear.product(torch.randn(4, INPUTS))
        linear.grad_input(torch.randn(4, OUTPUTS))
    assert len(calls) == (1 if cache_weights else 6)


@pytest.mark.parametrize("num_rows", [1, NF4_ROWS, NF4_ROWS + 1])
def test_few_rows_are_multiplied_with_the_4_bits_as_they_are(monkeypatch, num_rows):
    as_they_are = []
    product = fused.nf4_product
    monkeypatch.setattr(fused, "nf4_product", lambda *args: as_they_are.append(1) or product(*args))
    layer, x = nf4_layer(), torch.randn(num_rows, INPUTS)
    found = frozen(layer, fused, fused=True).product(x)
    assert len(as_they_are) == (num_rows <= NF4_ROWS)
    torch.testing.assert_close(found, F.linear(x, weight_of(layer)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_rows", [1, NF4_ROWS, NF4_ROWS + 1])
def test_few_rows_of_two_layers_are_one_launch(num_rows):
    kernel, layers = PlainRowKernel(), [nf4_layer(), nf4_layer()]
    pair = LinearPair(*(frozen(layer, fused=True, row_kernel=kernel) for layer in layers))
    x, y = torch.randn(2, num_rows, INPUTS)
    assert pair.is_joint(num_rows) == (num_rows <= NF4_ROWS)
    for found, given, layer in zip(pair.products(x, y), (x, y), layers, strict=True):
        torch.testing.assert_close(found, F.linear(given, weight_of(layer)), rtol=1e-5, atol=1e-5)
    assert kernel.launches == ([2] if num_rows <= NF4_ROWS else [])


@pytest.mark.parametrize("second", [
    lambda kernel: frozen(whole_layer(), fused=True, row_kernel=kernel),
    lambda kernel: frozen(nf4_layer(), fused=True),
    lambda kernel: frozen(nf4_layer(), row_kernel=kernel),
    lambda kernel: frozen(nf4_layer(), fused=True, row_kernel=PlainRowKernel()),
    lambda kernel: frozen(nf4_layer(), fused=True, row_kernel=kernel),
])  # fmt: skip
def test_layers_that_do_not_go_together_are_multiplied_one_by_one(second):
    kernel = PlainRowKernel(goes_together=False)
    first, second = frozen(nf4_layer(), fused=True, row_kernel=kernel), second(kernel)
    pair, x, y = LinearPair(first, second), torch.randn(3, INPUTS), torch.randn(3, INPUTS)
    assert not pair.is_joint(3)
    one, other = pair.products(x, y)
    assert torch.equal(one, first.product(x)) and torch.equal(other, second.product(y)) and 2 not in kernel.launches


def test_a_weight_that_the_kernel_does_not_know_goes_to_tritons(monkeypatch):
    kernel, asked = PlainRowKernel(refusal="its shape is unusual"), []
    monkeypatch.setattr(reference, "nf4_product", lambda x, weight: asked.append(1) or x)
    frozen(nf4_layer(), fused=True, row_kernel=kernel).product(torch.randn(3, INPUTS))
    assert asked and not kernel.launches


def test_what_is_nf4():
    assert is_nf4(nf4_layer()) and not is_nf4(nf4_layer("fp4")) and not is_nf4(whole_layer())
