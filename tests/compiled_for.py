"""Compiles every kernel for GPUs that are not here: `python compiled_for.py CAPABILITY fp8|bf16`.

Prints a JSON object: each kernel's shared memory in bytes. Triton's compiler needs no GPU, only the name of one.
"""

import json
import sys
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from falconer.kernels import fused, generic_fused
from falconer.kernels.formats import Branches, Dropout, Layout, Nf4, Norm, Want

# Falcon-7B's widths, and few rows: what is compiled depends on the widths alone.
D, Q, H, F, V, R, M = 4544, 71, 64, 18176, 65024, 16, 64


class NamedGpu:
    """As much of a driver as compiling asks for."""

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def call_every_kernel(fp8: bool) -> None:
    def some(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.zeros(*shape, dtype=dtype)

    fp32, want, both = torch.float32, Want.FP8 if fp8 else Want.PLAIN, Want.BOTH if fp8 else Want.PLAIN
    norm = Norm(some(D), some(D), 1e-5)
    normed, _ = fused.add_layer_norm(some(M, D), (some(M, D), some(M, D)), norm, want)
    fused.add_layer_norm(some(M, D), (), norm, want)
    fused.layer_norm_grad((some(M, D), some(M, D)), normed, some(M, D), both)
    fused.gelu(some(M, F), want)
    fused.gelu_grad(some(M, F), some(M, F), want)
    angles, positions = some(512, H // 2, dtype=fp32), some(M, dtype=torch.int64)
    heads = some(M, Q, H), some(M, 1, H, dtype=fp32), some(M, 1, H, dtype=fp32)
    fused.rotate_(some(M, (Q + 2) * H), some(M, R), some((Q + 2) * H, R), angles, angles, positions, H)
    fused.rotate_grad(*heads, angles, angles, positions, both)
    attended = fused.attention(some(M, (Q + 2) * H), Layout(2, M // 2), H)
    fused.attention_grad(some(M, Q * H), some(M, (Q + 2) * H), attended, Layout(2, M // 2), H)
    for x in (normed, some(M, D)):
        fused.lora_down(x, some(R, D), Dropout(0.05, 7))
        fused.lora_down_pair(x, some(R, D), Dropout(0.05, 7), some(R, D), Dropout(0.05, 8))
        fused.lora_grad_a(some(M, R), x, Dropout(0.05, 7))
    fused.lora_grad_input_(some(M, D), some(M, R), some(R, D), Dropout(0.05, 7))
    fused.cross_entropy_(some(M, V), positions, True)
    for width, act in ((640, "gelu_tanh"), (2048, "silu"), (256, "gelu")):
        _, rstd = generic_fused.rms_norm(some(M, width), some(width), 1e-6, 1.0)
        generic_fused.rms_norm_grad(some(M, width), some(M, width), rstd, some(width), 1.0)
        generic_fused.gated_grad(some(M, F), some(M, F), generic_fused.gated(some(M, F), some(M, F), act), act)
    num_blocks = 128 * D // 64
    weight = Nf4(
        some(128 * D // 2, dtype=torch.uint8), some(16, dtype=fp32), some(num_blocks, dtype=torch.uint8),
        some(256, dtype=fp32), some(num_blocks // 256 + 1, dtype=fp32), torch.zeros(()), 64, 256, (128, D),
    )  # fmt: skip
    fused.dequantise(weight, torch.bfloat16)
    for rows in (1, 8):
        fused.nf4_product(some(rows, D), weight)
    cache = some(100, 2, H)
    for num, longest in ((1, 1), (512, 1), (1, M), (50, 20)):
        one = torch.zeros(num, dtype=torch.int64)
        starts = None if longest == 1 else torch.zeros(num + 1, dtype=torch.int64)
        branches = Branches(num, longest, starts, one, one, one, one)
        fused.branch_attention(some(max(num, M), (Q + 2) * H), cache, cache, branches, H)
    if fp8:
        fused.quantise(some(M, D))
        fused.dequantise_fp8(weight, some(128, 1, dtype=fp32), False)
        fused.dequantise_fp8(weight, some(D, 1, dtype=fp32), True)


def main(capability: int, fp8: bool) -> None:
    shared: dict[str, int] = {}
    run = JITFunction.run

    def compile_only(self: Any, *arguments: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *arguments, warmup=True, **options)
        shared[self.__name__] = max(shared.get(self.__name__, 0), kernel.metadata.shared)
        return kernel

    JITFunction.run = compile_only
    driver.set_active(NamedGpu(capability))
    call_every_kernel(fp8)
    print(json.dumps(shared))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] == "fp8")
