import pytest
import torch
from torch.nn import functional as F

from falconer.kernels import fused, reference
from kernel_rule import exactly, hold_to_rule, quantised


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("shape", [(96, 192), (301, 64), (5, 1088)])
@pytest.mark.parametrize("num_rows", [1, 2, 8, 16])
def test_it_is_the_product_with_the_unpacked_weight(place, nested, shape, num_rows):
    _, _, weight = quantised(torch.randn(*shape, device=place.device) * 0.02, nested)
    x = place.random(num_rows, shape[1])
    # The weight's own values are what 4 bits hold; bf16 would round them once more.
    exact = exactly(x) @ reference.dequantise(weight, torch.float32).double().T
    plain = F.linear(x, reference.dequantise(weight, place.dtype))
    hold_to_rule(reference.nf4_product(x, weight), plain, exact)
    hold_to_rule(fused.nf4_product(x, weight), plain, exact)


def test_more_rows_than_it_is_made_for_are_refused(place):
    _, _, weight = quantised(torch.randn(8, 64, device=place.device), nested=False)
    with pytest.raises(AssertionError):
        fused.nf4_product(place.random(17, 64), weight)
