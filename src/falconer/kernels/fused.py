"""The Triton kernels in one module, with the same functions as `reference`."""

from falconer.kernels.attention import attention, attention_grad
from falconer.kernels.branch_attention import branch_attention
from falconer.kernels.cross_entropy import cross_entropy_
from falconer.kernels.gelu import gelu, gelu_grad
from falconer.kernels.layer_norm import add_layer_norm, add_layer_norms, layer_norm_grad
from falconer.kernels.lora import lora_down, lora_down_pair, lora_grad_a, lora_grad_input_, sample_dropout
from falconer.kernels.nf4 import dequantise, dequantise_fp8
from falconer.kernels.nf4_product import nf4_product
from falconer.kernels.quantise import quantise, scaled_product
from falconer.kernels.rotary import rotate_, rotate_grad

__all__ = [
    "add_layer_norm", "add_layer_norms", "attention", "attention_grad", "branch_attention", "cross_entropy_",
    "dequantise", "dequantise_fp8", "sample_dropout", "gelu", "gelu_grad", "layer_norm_grad", "lora_down",
    "lora_down_pair", "lora_grad_a", "lora_grad_input_", "nf4_product", "quantise", "rotate_", "rotate_grad",
    "scaled_product",
]  # fmt: skip
