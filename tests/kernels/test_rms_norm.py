import pytest
import torch

from falconer.kernels import generic_fused, generic_reference
from kernel_rule import exactly, hold_to_rule


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(1, 64), (37, 256), (5, 640), (3, 4097)])
def test_the_norm_and_its_gradient(place, shape, offset):
    x, grad, weight = 3 * place.random(*shape), place.random(*shape), place.random(shape[1])
    ours, rstd = generic_fused.rms_norm(x, weight, 1e-6, offset)
    plain, plain_rstd = generic_reference.rms_norm(x, weight, 1e-6, offset)
    exact, exact_rstd = generic_reference.rms_norm(exactly(x), exactly(weight), 1e-6, offset)
    hold_to_rule(ours, plain, exact)
    hold_to_rule(rstd, plain_rstd, exact_rstd)
    found = generic_fused.rms_norm_grad(grad, x, rstd, weight, offset)
    twin = generic_reference.rms_norm_grad(grad, x, plain_rstd, weight, offset)
    hold_to_rule(
        found, twin, generic_reference.rms_norm_grad(*map(exactly, (grad, x)), exact_rstd, exactly(weight), offset)
    )


def test_rows_of_zeros_and_of_huge_values(place):
    x = torch.zeros(3, 64, dtype=place.dtype, device=place.device)
    x[1], x[2] = 1e15, 1e-15
    out, rstd = generic_fused.rms_norm(x, torch.ones(64, dtype=place.dtype, device=place.device), 1e-6, 0.0)
    assert not out[0].any() and torch.allclose(out[1].float(), torch.ones(64, device=place.device))
    assert out[2].float().abs().max() < 1e-9 and torch.isfinite(rstd).all()
