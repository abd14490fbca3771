"""Where the kernels are tested: on the CPU by Triton's interpreter in fp32, with `-m gpu` on a GPU in bf16."""

from collections.abc import Iterator

import pytest
import torch

from kernel_rule import Place, rounding_interpreter


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request: pytest.FixtureRequest) -> Place:
    return Place(request.param, torch.float32 if request.param == "cpu" else torch.bfloat16)


@pytest.fixture(autouse=True, scope="package")
def rounding() -> Iterator[None]:
    with rounding_interpreter():
        yield
