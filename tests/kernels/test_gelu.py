import pytest
import torch

from falconer.kernels import fused, reference
from falconer.kernels.formats import Want
from kernel_rule import exactly, hold_operands

EXACT = Want.PLAIN
WANTS = [Want.PLAIN, Want.FP8, Want.BOTH]


@pytest.mark.parametrize("want", WANTS, ids=str)
@pytest.mark.parametrize("shape", [(3, 64), (7, 4672)])
def test_gelu_and_its_gradient(place, want, shape):
    x, grad = 2 * place.random(*shape), place.random(*shape)
    hold_operands(fused.gelu(x, want), reference.gelu(x, want), reference.gelu(exactly(x), EXACT))
    hold_operands(
        fused.gelu_grad(grad, x, want), reference.gelu_grad(grad, x, want),
        reference.gelu_grad(exactly(grad), exactly(x), EXACT),
    )  # fmt: skip


def test_far_out_values(place):
    x = torch.tensor([[-60.0, -9.0, -1e-4, 0.0, 1e-4, 9.0, 60.0, 300.0]]).to(place.device, place.dtype)
    plain = fused.gelu(x, Want.BOTH)
    expected = torch.nn.functional.gelu(x.double())
    torch.testing.assert_close(plain.plain.double(), expected, rtol=8e-3, atol=1e-7)
    assert torch.isfinite(plain.fp8.values.float()).all()
    slope = fused.gelu_grad(torch.ones_like(x), x, Want.BOTH)
    assert slope.plain[0, -1] == 1 and slope.plain[0, 0] == 0
    assert torch.isfinite(slope.fp8.values.float()).all()


def test_rows_of_zeros(place):
    zero = torch.zeros(2, 128, dtype=place.dtype, device=place.device)
    for operand in (fused.gelu(zero, WANTS[2]), fused.gelu_grad(zero, zero, WANTS[2])):
        assert (operand.plain == 0).all() and (operand.fp8.values.float() == 0).all()
