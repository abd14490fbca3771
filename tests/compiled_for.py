"""Compiles every kernel for GPUs that are not here: `python compiled_for.py CAPABILITY fp8|bf16`.

Prints a JSON object: each kernel's shared memory in bytes. Triton's compiler needs no GPU, only the name of one.
"""

import json
import sys
from dataclasses import replace
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from falconer.kernels import fused, generic_fused
from falconer.kernels.formats import Branches, Dropout, Heads, Layout, Nf4, Norm, Want

# Falcon-7B's widths, and few rows: what is compiled depends on the widths alone.
D, F, V, R, M = 4544, 18176, 65024, 16, 64
# The layouts of Falcon-7B, 40B and 11B: the width of the residual stream, the heads, and the norms of a block.
LAYOUTS = ((D, Heads(1, 71, 64), 1), (8192, Heads(8, 128, 64), 2), (4096, Heads(8, 32, 128), 1))


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


def some(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype)


def call_kernels_of_layout(fp8: bool, width: int, heads: Heads, num_norms: int) -> None:
    """Call the kernels that depend on a model's heads or on its norms."""
    want, both = Want.FP8 if fp8 else Want.PLAIN, Want.BOTH if fp8 else Want.PLAIN
    row, norms = some(M, width), [Norm(some(width), some(width), 1e-5) for _ in range(num_norms)]
    (normed, _), *_ = fused.add_layer_norms(row, (row, row), norms, want)
    fused.add_layer_norms(row, (), norms, want)
    fused.layer_norm_grad((row, row), normed, row, both, norms[1] if num_norms == 2 else None)
    angles, positions = some(512, heads.size // 2, dtype=torch.float32), some(M, dtype=torch.int64)
    qkv, mixed, layout = some(M, heads.width), some(M, heads.num_queries * heads.size), Layout(2, M // 2)
    fused.rotate_(qkv, some(M, R), some(heads.width, R), angles, angles, positions, heads)
    fused.rotate_(qkv, None, None, angles, angles, positions, heads)
    keys = some(M, heads.num_groups, heads.size, dtype=torch.float32)
    fused.rotate_grad(mixed.view(M, heads.num_queries, -1), keys, keys, angles, angles, positions, both)
    fused.attention_grad(mixed, qkv, fused.attention(qkv, layout, heads), layout, heads)
    cache = some(100, heads.num_groups, 2, heads.size)
    for num, longest in ((1, 1), (512, 1), (1, M), (50, 20)):
        one = torch.zeros(num, dtype=torch.int64)
        starts = None if longest == 1 else torch.zeros(num + 1, dtype=torch.int64)
        branches = Branches(num, longest, starts, one, one, one, one)
        for ends in (None, torch.ones(100, dtype=torch.int64)):
            tree = replace(branches, ends=ends)
            fused.branch_attention(some(max(num, M), heads.width), cache, cache, tree, heads)


def call_other_kernels(fp8: bool) -> None:
    fp32, want = torch.float32, Want.FP8 if fp8 else Want.PLAIN
    normed, _ = fused.add_layer_norm(some(M, D), (), Norm(some(D), some(D), 1e-5), want)
    fused.gelu(some(M, F), want)
    fused.gelu_grad(some(M, F), some(M, F), want)
    for x in (normed, some(M, D)):
        fused.lora_down(x, some(R, D), Dropout(0.05, 7))
        fused.lora_down_pair(x, some(R, D), Dropout(0.05, 7), some(R, D), Dropout(0.05, 8))
        fused.lora_grad_a(some(M, R), x, Dropout(0.05, 7))
    in_memory = Dropout(0.05, torch.zeros((), dtype=torch.int64))
    fused.lora_down(some(M, D), some(R, D), in_memory)
    fused.lora_grad_a(some(M, R), some(M, D), in_memory)
    for dropout in (Dropout(0.05, 7), in_memory):
        fused.lora_grad_input_(some(M, D), some(M, R), some(R, D), dropout)
    fused.cross_entropy_(some(M, V), some(M, dtype=torch.int64), True)
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
    for layout in LAYOUTS:
        call_kernels_of_layout(fp8, *layout)
    call_other_kernels(fp8)
    print(json.dumps(shared))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] == "fp8")
