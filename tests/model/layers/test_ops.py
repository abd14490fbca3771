"""Kernels where they can be built, plain torch elsewhere."""

import pytest
import torch

from falconer import runtime
from falconer.kernels import generic_fused, generic_reference
from falconer.model.layers.ops import ops_of

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_a_gpu_has_kernels_if_they_can_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "has_c_compiler", lambda: True)
    assert (ops_of(CPU), ops_of(GPU)) == (generic_reference, generic_fused)
    monkeypatch.setattr(runtime, "has_c_compiler", lambda: False)
    assert ops_of(GPU) is generic_reference


def test_without_triton_a_gpu_computes_in_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "has_c_compiler", lambda: True)
    monkeypatch.setattr(runtime, "metadata_version", lambda package: "not installed")
    assert ops_of(GPU) is generic_reference
