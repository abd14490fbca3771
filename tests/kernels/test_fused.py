"""Two modules of the same functions: whoever is given one as `ops` may be given the other."""

import inspect

import pytest

from falconer.kernels import fused, reference


@pytest.mark.parametrize("name", fused.__all__)
def test_each_kernel_takes_what_its_twin_in_plain_torch_takes(name):
    ours, twin = inspect.signature(getattr(fused, name)), inspect.signature(getattr(reference, name))
    assert list(ours.parameters.values()) == list(twin.parameters.values())
    assert ours.return_annotation == twin.return_annotation


def test_every_operation_of_the_fast_path_is_there():
    imported = {name for name, value in vars(fused).items() if inspect.isfunction(value)}
    assert imported == set(fused.__all__)
