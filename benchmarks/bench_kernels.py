"""Times every kernel of the fast path at a Falcon's shape beside its twin in plain torch, and beside the time that its
bytes take at this device's copy rate.

    python benchmarks/bench_kernels.py [tokens] [7b|11b|40b]        one CUDA GPU
    python benchmarks/bench_kernels.py few [7b,11b,40b] [FILE]      a block's base matmuls for 1 to 16 rows alone
"""

import sys
from collections.abc import Callable
from pathlib import Path

import few_rows
import torch

from falconer.kernels import fused, reference
from falconer.kernels.formats import Branches, Dropout, Heads, Layout, Nf4, Norm, Want
from falconer.model.bnb import bnb

V, R = 65024, 16
# Widths of the residual stream and the MLP, heads, and the norms of a block.
SHAPES = {
    "7b": (4544, 18176, Heads(1, 71, 64), 1), "11b": (4096, 16384, Heads(8, 32, 128), 1),
    "40b": (8192, 32768, Heads(8, 128, 64), 2),
}  # fmt: skip
FP8 = Want.FP8
PLAIN = Want.PLAIN


def milliseconds(run: Callable[[], object], repeats: int = 20) -> float:
    """Return the median time of a launch by the device's own clock."""
    times = []
    for repeat in range(repeats + 3):
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        started.record()
        run()
        ended.record()
        torch.cuda.synchronize()
        if repeat >= 3:
            times.append(started.elapsed_time(ended))
    return sorted(times)[repeats // 2]


def main(tokens: int, shape: str) -> None:
    torch.manual_seed(0)
    D, F, HEADS, NORMS = SHAPES[shape]
    Q, G, H, N = HEADS.num_queries, HEADS.num_groups, HEADS.size, HEADS.width

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

    wide, other, third, pre, grad_pre = (random(tokens, width) for width in (D, D, D, F, F))
    norms = [Norm(random(D), random(D), 1e-5) for _ in range(NORMS)]
    second_norm = norms[1] if NORMS == 2 else None
    (normed, _), *_ = fused.add_layer_norms(wide, (other, third), norms, FP8)
    qkv, a, b, low = random(tokens, N), random(R, D), random(N, R), random(tokens, R)
    angles = torch.outer(torch.arange(512.0), 10000 ** -(torch.arange(0, H, 2) / H)).cuda()
    cos, sin, positions = angles.cos(), angles.sin(), torch.arange(tokens, device="cuda") % 256
    heads = random(tokens, Q, H), random(tokens, G, H), random(tokens, G, H)
    logits, labels = random(1024, V), torch.randint(V, (1024,), device="cuda")
    seed = Dropout(0.05, 77)
    mask = Dropout(0.05, reference.hashed_mask(77, tokens, D, 0.05).cuda())
    packed, state = bnb.functional.quantize_4bit(0.02 * random(F, D), quant_type="nf4", compress_statistics=True)
    second = state.state2
    weight = Nf4(
        packed, state.code, state.absmax, second.code, second.absmax, state.offset, state.blocksize, second.blocksize,
        (F, D),
    )  # fmt: skip
    scales = reference.weight_scales(reference.dequantise(weight, torch.bfloat16))
    layout = Layout(tokens // 256, 256)
    attended = fused.attention(qkv, layout, HEADS)
    one, few, cache, tails = random(1, D), random(8, D), random(200_000, G, 2, H), random(512 * 32, G, 2, H)
    ones = torch.ones(512, dtype=torch.int64, device="cuda")
    # 512 replies of 64 dialogues, 200 tokens of prompt and 16 of their own.
    order = torch.arange(512, device="cuda")
    replies = Branches(512, 1, None, order // 8 * 3000, 200 * ones, 32 * order, 16 * ones)
    alone = Branches(1, 1, None, order[:1], 200 * ones[:1], order[:1], 16 * ones[:1])
    query = random(512, N)
    m, i, f = 2 * tokens * D, 2 * tokens * F, F * D

    rows: list[tuple[str, float, Callable[[], object], Callable[[], object] | None]] = [
        (
            "add_layer_norms, fp8", (4 + 0.5 * NORMS) * m, *both("add_layer_norms", wide, (other, third), norms, FP8),
        ),
        (
            "layer_norm_grad, fp8 too", 5.5 * m,
            *both("layer_norm_grad", (wide, other), normed, third, Want.BOTH, second_norm),
        ),
        ("gelu", 2 * i, *both("gelu", pre, PLAIN)),
        ("gelu, fp8", 1.5 * i, *both("gelu", pre, FP8)),
        ("gelu_grad", 3 * i, *both("gelu_grad", grad_pre, pre, PLAIN)),
        ("gelu_grad, fp8", 2.5 * i, *both("gelu_grad", grad_pre, pre, FP8)),
        ("quantise", 1.5 * m, *both("quantise", wide)),
        ("rotate_ with LoRA", 2 * m, *both("rotate_", qkv, low, b, cos, sin, positions, HEADS)),
        ("rotate_grad, fp8 too", 2.5 * m, *both("rotate_grad", *heads, cos, sin, positions, Want.BOTH)),
        ("lora_down", m, lambda: fused.lora_down(normed, a, seed), lambda: reference.lora_down(normed, a, mask)),
        (
            "lora_grad_a", m, lambda: fused.lora_grad_a(low, normed, seed),
            lambda: reference.lora_grad_a(low, normed, mask),
        ),
        (
            "lora_grad_input_", 2 * m, lambda: fused.lora_grad_input_(other, low, a, seed),
            lambda: reference.lora_grad_input_(other, low, a, mask),
        ),
        ("cross_entropy_ of 1,024", 2 * 2 * 1024 * V, *both("cross_entropy_", logits, labels, True)),
        ("dequantise", 2.5 * f, lambda: fused.dequantise(weight, torch.bfloat16), lambda: bitsandbytes(packed, state)),
        ("dequantise_fp8", 1.5 * f, *both("dequantise_fp8", weight, scales[0], False)),
        ("dequantise_fp8, transposed", 1.5 * f, *both("dequantise_fp8", weight, scales[1], True)),
        (
            "attention, rows of 256", 2 * m, lambda: fused.attention(qkv, layout, HEADS),
            lambda: torchs_flash(qkv, HEADS),
        ),
        ("nf4_product, 1 row", 0.5 * f, *both("nf4_product", one, weight)),
        ("nf4_product, 8 rows", 0.5 * f, *both("nf4_product", few, weight)),
        (
            "branch_attention, 512", (64 * 200 + 512 * 16) * 4 * G * H,
            *both("branch_attention", query, cache, tails, replies, HEADS),
        ),
        ("branch_attention, 1", 216 * 4 * G * H, *both("branch_attention", query[:1], cache, tails, alone, HEADS)),
        ("attention_grad", 5 * m, lambda: fused.attention_grad(wide, qkv, attended, layout, HEADS), None),
    ]  # fmt: skip
    big = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(big)
    rate = 2 * 2**30 / milliseconds(lambda: target.copy_(big))
    print(f"{torch.cuda.get_device_name()}, {tokens:,} tokens; a copy moves {rate / 1e9:.2f} TB/s")
    print(f"{'kernel':<28} {'ms':>7} {'bytes alone':>12} {'plain torch':>12}")
    for name, moved, ours, twin in rows:
        beside = f"{milliseconds(twin, 5):12.3f}" if twin else ""
        print(f"{name:<28} {milliseconds(ours):7.3f} {moved / rate:12.3f} {beside}")


def both(name: str, *arguments: object) -> tuple[Callable[[], object], Callable[[], object]]:
    return lambda: getattr(fused, name)(*arguments), lambda: getattr(reference, name)(*arguments)


def bitsandbytes(packed: torch.Tensor, state: object) -> torch.Tensor:
    return bnb.functional.dequantize_4bit(packed, state)


def torchs_flash(qkv: torch.Tensor, heads: Heads) -> torch.Tensor:
    groups = reference.grouped(qkv, heads).unflatten(0, (-1, 256))
    q, k, v = groups[:, :, :, :-2].flatten(2, 3), groups[:, :, :, -2], groups[:, :, :, -1]
    return torch.ops.aten._flash_attention_forward(q, k, v, None, None, 256, 256, 0.0, True, False)[0]


def few(names: str, path: Path | None) -> None:
    """Time the base matmuls of a block for few rows; see `few_rows.py`."""
    few_rows.main({name: few_rows.pairs_of(*SHAPES[name][:3]) for name in names.split(",")}, path)


if __name__ == "__main__" and sys.argv[1:2] == ["few"]:
    few(sys.argv[2] if len(sys.argv) > 2 else "7b,11b,40b", Path(sys.argv[3]) if len(sys.argv) > 3 else None)
elif __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 16384, sys.argv[2] if len(sys.argv) > 2 else "7b")
