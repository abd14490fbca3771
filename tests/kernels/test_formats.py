"""An operand is there in the form that its consumer takes, or its consumer says so at once."""

import pytest
import torch

from falconer.kernels import reference
from falconer.kernels.formats import Both, Fp8, Want, fp8_of, plain_of


@pytest.mark.parametrize("want", list(Want))
def test_what_is_wanted_is_there_and_nothing_else(want):
    x = torch.randn(3, 64)
    found = reference.gelu(x, want)
    assert type(found) is {Want.PLAIN: torch.Tensor, Want.FP8: Fp8, Want.BOTH: Both}[want]
    assert (want.plain, want.fp8) == (type(found) is not Fp8, type(found) is not torch.Tensor)


def test_a_consumer_gets_its_form():
    x = torch.randn(3, 64)
    quantised = reference.quantise(x)
    both = Both(x, quantised)
    assert plain_of(x) is x is plain_of(both) and fp8_of(quantised) is quantised is fp8_of(both)
    with pytest.raises(TypeError, match="in FP8 alone.*wanted BOTH"):
        plain_of(quantised)
    with pytest.raises(TypeError, match="plain tensor alone.*wanted FP8 or BOTH"):
        fp8_of(x)
