"""The Triton kernels that the generic path trains with, with the same functions as `generic_reference`."""

from falconer.kernels.cross_entropy import cross_entropy_
from falconer.kernels.gated import gated, gated_grad
from falconer.kernels.lora import lora_down, lora_grad_a, lora_grad_input_, sample_dropout
from falconer.kernels.nf4 import dequantise
from falconer.kernels.rms_norm import rms_norm, rms_norm_grad

__all__ = [
    "cross_entropy_", "dequantise", "gated", "gated_grad", "lora_down", "lora_grad_a", "lora_grad_input_", "rms_norm",
    "rms_norm_grad", "sample_dropout",
]  # fmt: skip
