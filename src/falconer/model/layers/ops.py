"""Which operations the generic path trains with on a device: Triton kernels or plain torch."""

from types import ModuleType

import torch

from falconer import runtime
from falconer.kernels import generic_reference


def ops_of(device: torch.device) -> ModuleType:
    """Return the operations for a device; without Triton or a C compiler, a GPU computes in plain torch, too."""
    has_triton = runtime.metadata_version("triton") != "not installed"
    if device.type != "cuda" or not has_triton or not runtime.has_c_compiler():
        return generic_reference
    from falconer.kernels import generic_fused

    return generic_fused
