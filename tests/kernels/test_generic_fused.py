"""Two modules of the same functions, as `fused` and `reference` are."""

import inspect

import pytest

from falconer.kernels import generic_fused, generic_reference


@pytest.mark.parametrize("name", generic_fused.__all__)
def test_each_kernel_takes_what_its_twin_in_plain_torch_takes(name):
    ours, twin = (inspect.signature(getattr(module, name)) for module in (generic_fused, generic_reference))
    assert list(ours.parameters.values()) == list(twin.parameters.values())
    assert ours.return_annotation == twin.return_annotation


def test_both_have_the_same_operations():
    assert generic_fused.__all__ == generic_reference.__all__
