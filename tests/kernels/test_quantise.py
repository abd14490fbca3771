import pytest
import torch

from falconer.kernels import fused, reference
from falconer.kernels.formats import FP8, FP8_MAX
from kernel_rule import exactly, hold_to_rule


@pytest.mark.parametrize("shape", [(5, 64), (33, 320)])
def test_rows_by_their_largest_value(place, shape):
    x = place.random(*shape) * torch.logspace(-6, 3, shape[0], device=place.device).unsqueeze(1).to(place.dtype)
    ours, plain = fused.quantise(x), reference.quantise(x)
    hold_to_rule(ours, plain, exactly(x))
    torch.testing.assert_close(ours.scale, plain.scale)
    assert ours.values.dtype == FP8 and (ours.values.float().abs().amax(dim=1) == FP8_MAX).all()


def test_rows_that_stand_apart(place):
    wide = place.random(9, 200)
    view = wide[:, :128]
    assert torch.equal(fused.quantise(view).values.float(), fused.quantise(view.contiguous()).values.float())


def test_a_row_of_zeros_stays_zero(place):
    x = place.random(3, 64)
    x[1] = 0
    found = fused.quantise(x)
    assert (reference.dense(found)[1] == 0).all() and torch.isfinite(found.scale).all()


def test_the_product_of_two(place):
    x, weight = place.random(37, 320), place.random(96, 320)
    left, right = fused.quantise(x), fused.quantise(weight)
    exact = reference.dense(left).double() @ reference.dense(right).double().T
    found = fused.scaled_product(left, right, place.dtype)
    hold_to_rule(found, reference.scaled_product(left, right, place.dtype), exact, tiny=2e-3)
