"""Where the kernels are tested: on the CPU by Triton's interpreter in fp32, with `-m gpu` on a GPU in bf16."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from falconer.kernels.formats import FP8
from kernel_rule import Place


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request: pytest.FixtureRequest) -> Place:
    return Place(request.param, torch.float32 if request.param == "cpu" else torch.bfloat16)


@pytest.fixture(autouse=True, scope="package")
def rounding_interpreter() -> Iterator[None]:
    """Let Triton's interpreter round as the hardware does: it cuts off what a smaller format can't hold."""
    from triton.runtime import interpreter

    before = interpreter._convert_float
    names = {"fp32": torch.float32, "fp8e4nv": FP8}

    def convert(x: Any, source: Any, target: Any, rounding: Any) -> Any:
        if (str(source), str(target)) != ("fp32", "fp8e4nv"):
            return before(x, source, target, rounding)
        rounded = torch.from_numpy(np.ascontiguousarray(x)).to(names["fp8e4nv"])
        return rounded.view(torch.uint8).numpy().reshape(x.shape)

    interpreter._convert_float = convert
    yield
    interpreter._convert_float = before
