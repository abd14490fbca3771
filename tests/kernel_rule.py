"""Every kernel is held to one rule: its error against the float64 reference is at most twice that of plain torch in the
same number format.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch

from falconer.kernels.formats import FP8, Both, Fp8, Nf4, Operand, plain_of
from falconer.model.bnb import bnb


@contextmanager
def rounding_interpreter() -> Iterator[None]:
    """Let Triton's interpreter round as the hardware does: it cuts off what a smaller format can't hold."""
    # After the variable that chooses the interpreter has been set (tests/conftest.py).
    from triton.runtime import interpreter

    before = interpreter._convert_float

    def convert(x: Any, source: Any, target: Any, rounding: Any) -> Any:
        if (str(source), str(target)) != ("fp32", "fp8e4nv"):
            return before(x, source, target, rounding)
        return torch.from_numpy(np.ascontiguousarray(x)).to(FP8).view(torch.uint8).numpy().reshape(x.shape)

    interpreter._convert_float = convert
    try:
        yield
    finally:
        interpreter._convert_float = before


@dataclass(frozen=True)
class Place:
    """Where and in which precision a test runs."""

    device: str
    dtype: torch.dtype

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape).to(self.device, self.dtype)


def exactly(value: Any) -> Any:
    """Return tensors, and records of them, in float64."""
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: exactly(getattr(value, field.name)) for field in fields(value)})
    return type(value)(map(exactly, value)) if isinstance(value, (list, tuple)) else value


def dense(value: torch.Tensor | Fp8) -> torch.Tensor:
    return value.values.double() * value.scale.double() if isinstance(value, Fp8) else value.double()


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    assert found.shape == exact.shape
    return float(((found - exact).norm() / exact.norm().clamp_min(1e-30)).detach())


def hold_to_rule(ours: torch.Tensor | Fp8, plain: torch.Tensor | Fp8, exact: torch.Tensor, tiny: float = 1e-6) -> None:
    """Hold a kernel's result to the rule above; NaN never passes."""
    assert error(dense(ours), exact) <= 2 * error(dense(plain), exact) + tiny


def hold_operands(ours: Operand, plain: Operand, exact: Operand) -> None:
    """Hold each form of a result to the rule; both results are there in the same forms."""
    assert type(ours) is type(plain)
    pairs = ((ours.plain, plain.plain), (ours.fp8, plain.fp8)) if isinstance(ours, Both) else ((ours, plain),)
    for found, twin in pairs:
        hold_to_rule(found, twin, plain_of(exact))


def quantised(weight: torch.Tensor, nested: bool) -> tuple[torch.Tensor, Any, Nf4]:
    """Return a weight in NF4 as bitsandbytes packs it, its state, and the same as our record."""
    packed, state = bnb.functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=nested)
    second = state.state2
    return packed, state, Nf4(
        packed, state.code, state.absmax, second.code if nested else None, second.absmax if nested else None,
        state.offset if nested else None, state.blocksize, second.blocksize if nested else 1, tuple(state.shape),
    )  # fmt: skip
