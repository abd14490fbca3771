import pytest
import torch

from falconer.kernels import fused, reference
from falconer.model.bnb import bnb
from kernel_rule import error, exactly, hold_to_rule, quantised


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("shape", [(96, 192), (300, 64), (130, 448)])
def test_unpacked_as_bitsandbytes_unpacks(place, nested, shape):
    packed, state, weight = quantised(torch.randn(*shape, device=place.device) * 0.02, nested)
    expected = bnb.functional.dequantize_4bit(packed, state)
    assert torch.equal(reference.dequantise(weight, torch.float32), expected)
    assert error(fused.dequantise(weight, torch.float32).double(), expected.double()) < 1e-7
    for ops in (reference, fused):
        assert ops.dequantise(weight, torch.float32).shape == shape


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", [(96, 192), (300, 64)])
def test_in_fp8_both_ways_round(place, transposed, shape):
    _, _, weight = quantised(torch.randn(*shape, device=place.device) * 0.02, nested=True)
    whole = reference.dequantise(weight, torch.float32)
    scale = reference.weight_scales(whole)[transposed]
    ours = fused.dequantise_fp8(weight, scale, transposed)
    plain = reference.dequantise_fp8(weight, scale, transposed)
    exact = exactly(whole.T if transposed else whole)
    assert ours.values.shape == exact.shape and ours.values.is_contiguous()
    hold_to_rule(ours, plain, exact)
    assert error(reference.dense(ours).double(), exact) < 0.04, "e4m3 has three bits behind the leading one"


def test_rows_that_end_inside_a_block_are_refused(place):
    _, _, weight = quantised(torch.randn(6, 96, device=place.device), nested=False)
    with pytest.raises(AssertionError, match="96"):
        fused.dequantise(weight, torch.float32)
