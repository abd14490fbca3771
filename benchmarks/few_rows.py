"""Times the four base matmuls of a Falcon's block for few rows: by the CUDA kernel, by Triton's, and with bf16 weights.

`bench_kernels.py few` runs it. The blocks have different weights, so that these are read from memory, and all of them
are recorded in one CUDA graph.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from falconer import runtime
from falconer.bench.result import write_result
from falconer.kernels import fused
from falconer.kernels.formats import Heads, Nf4
from falconer.kernels.nf4_rows import TILINGS, RowProducts, Tiling
from falconer.model.bnb import bnb
from falconer.model.falcon.graph import recorded

WHAT = "A block's four base matmuls for few rows, microseconds"
ROWS = (1, 2, 4, 8, 16)
NUM_BLOCKS, RUNS = 16, 20
DEVICE = torch.device("cuda", 0)
# The weights [outputs, inputs] of a block, as pairs that are multiplied at the same time.
Pairs = tuple[tuple[tuple[int, int], tuple[int, int]], ...]


def pairs_of(hidden: int, ffn: int, heads: Heads) -> Pairs:
    """Return the shapes of query_key_value and dense_h_to_4h, of dense_4h_to_h and dense."""
    return (((heads.width, hidden), (ffn, hidden)), ((hidden, ffn), (hidden, heads.num_queries * heads.size)))


def random_nf4(shape: tuple[int, int], like: Nf4) -> Nf4:
    """Return a weight of random codes and scales, with the tables of another one."""
    num = shape[0] * shape[1] // 64
    return Nf4(
        torch.randint(256, (num * 32,), dtype=torch.uint8, device=DEVICE), like.code,
        torch.randint(256, (num,), dtype=torch.uint8, device=DEVICE), like.nested_code,
        0.01 + 0.01 * torch.rand(-(-num // 256), device=DEVICE), like.offset, 64, 256, shape,
    )  # fmt: skip


def a_weight() -> Nf4:
    """Return a small weight as bitsandbytes stores it."""
    packed, state = bnb.functional.quantize_4bit(
        torch.randn(64, 128, device=DEVICE, dtype=torch.bfloat16), quant_type="nf4", compress_statistics=True
    )
    second = state.state2
    return Nf4(
        packed, state.code, state.absmax, second.code, second.absmax, state.offset, 64, second.blocksize, (64, 128)
    )


def microseconds(step: Callable[[], object]) -> float:
    """Return the median time of a block in a recorded graph of all blocks."""
    graph, times = recorded(step, DEVICE), []
    for run in range(RUNS + 3):
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        started.record()
        graph.replay()
        ended.record()
        torch.cuda.synchronize()
        if run >= 3:
            times.append(started.elapsed_time(ended))
    return 1000 * sorted(times)[RUNS // 2] / NUM_BLOCKS


class Blocks:
    """Blocks with random 4-bit weights of one shape, and inputs."""

    def __init__(self, pairs: Pairs) -> None:
        like = a_weight()
        self.weights = [[tuple(random_nf4(shape, like) for shape in pair) for pair in pairs] for _ in range(NUM_BLOCKS)]

    def inputs(self, num_rows: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return an input for each weight of a block."""
        widths = [tuple(weight.shape[1] for weight in pair) for pair in self.weights[0]]
        return [tuple(torch.randn(num_rows, width, device=DEVICE).bfloat16() for width in pair) for pair in widths]  # type: ignore[misc]

    def by_kernel(self, kernel: RowProducts, num_rows: int) -> float:
        """Return the time by the CUDA kernel, two launches a block."""
        inputs = self.inputs(num_rows)

        def step() -> None:
            for block in self.weights:
                for (x, y), (one, other) in zip(inputs, block, strict=True):
                    kernel.products([(x, one), (y, other)])

        return microseconds(step)

    def by_triton(self, num_rows: int) -> float:
        """Return the time by Triton's kernel, four launches a block."""
        inputs = self.inputs(num_rows)

        def step() -> None:
            for block in self.weights:
                for pair, weights in zip(inputs, block, strict=True):
                    for x, weight in zip(pair, weights, strict=True):
                        fused.nf4_product(x, weight)

        return microseconds(step)

    def whole(self, num_rows: int) -> float:
        """Return the time with bf16 weights, four launches a block."""
        inputs = self.inputs(num_rows)
        wholes = [
            [[torch.randn(weight.shape, device=DEVICE, dtype=torch.bfloat16) for weight in pair] for pair in block]
            for block in self.weights
        ]

        def step() -> None:
            for block in wholes:
                for pair, weights in zip(inputs, block, strict=True):
                    for x, weight in zip(pair, weights, strict=True):
                        F.linear(x, weight)

        return microseconds(step)


def measured(shape: str, pairs: Pairs, tilings: Sequence[Tiling] = TILINGS) -> list[dict[str, Any]]:
    """Return a row of figures for each number of rows, in microseconds a block."""
    blocks, rows = Blocks(pairs), []
    early, late = (
        RowProducts(DEVICE, True, runtime.kernel_cache(), tilings, starts_early=starts) for starts in (None, False)
    )
    for num_rows in ROWS:
        rows.append({
            "shape": shape, "rows": num_rows, "cuda": blocks.by_kernel(late, num_rows),
            "cuda, early start": blocks.by_kernel(early, num_rows), "triton": blocks.by_triton(num_rows),
            "bf16 weights": blocks.whole(num_rows),
        })  # fmt: skip
        torch.cuda.empty_cache()
    size = sum(num * width for pair in pairs for num, width in pair)
    moved = size * (0.5 + 1 / 64) / 2**20
    return [
        {key: round(value, 1) if isinstance(value, float) else value for key, value in row.items()}
        | {"MiB of a block": round(moved)}
        for row in rows
    ]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the figures as a table in Markdown."""
    names = list(rows[0])
    lines = [names, ["---:"] * len(names), *([str(row[name]) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(shapes: dict[str, Pairs], path: Path | None) -> None:
    """Measure shapes, print a table, and write the results if a path is given."""
    rows = []
    for shape, pairs in shapes.items():
        rows += measured(shape, pairs)
        torch.cuda.empty_cache()
    print(table(rows))
    if path is not None:
        write_result(path, WHAT, rows)
