"""The kernel for few rows on the CPU: its own source as a library, `on_cpu/ptx.cuh`, and a stand-in for its class."""

import ctypes
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

from falconer.kernels import reference
from falconer.kernels.formats import Nf4
from falconer.kernels.nf4_rows import GROUP_ROWS, Tiling, layers_and_tiles, plan_argument, source
from falconer.kernels.row_plan import plan_for

HERE = Path(__file__).parent / "on_cpu"


class PlainRowKernel:
    """Stands in for `RowProducts` with plain torch.

    Args:
        refusal: what `why_not` says of every weight.
        goes_together: what `goes_with` says of any two.
    """

    def __init__(self, refusal: str = "", goes_together: bool = True) -> None:
        self._refusal, self._goes_together = refusal, goes_together
        self.launches: list[int] = []

    def why_not(self, weight: Nf4) -> str:
        return self._refusal

    def goes_with(self, one: Nf4, other: Nf4) -> bool:
        return self._goes_together

    def products(self, pairs: Sequence[tuple[torch.Tensor, Nf4]]) -> list[torch.Tensor]:
        self.launches.append(len(pairs))
        return [reference.nf4_product(x_MK, weight) for x_MK, weight in pairs]


def built(folder: Path, tiling: Tiling, groups: int, nested: bool) -> ctypes.CDLL:
    """Compile the kernel for the CPU in a folder."""
    text = source()
    # Beside the kernel's source, so that it includes these instructions and not those of a GPU.
    texts = {text.name: text.text} | {
        path.name: path.read_text("utf-8") for path in (HERE / "ptx.cuh", HERE / "rows.cpp")
    }
    for name, content in texts.items():
        (folder / name).write_text(content, "utf-8")
    library = folder / "rows.so"
    subprocess.run(
        ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", *tiling.options(groups, nested), "-o", str(library),
         str(folder / "rows.cpp")],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return ctypes.CDLL(str(library))


def products(
    library: ctypes.CDLL, pairs: Sequence[tuple[torch.Tensor, Nf4]], tiling: Tiling, num_blocks: int
) -> list[torch.Tensor]:
    """Do what `RowProducts.products` does, on about so many thread blocks."""
    num_rows, weight = len(pairs[0][0]), pairs[0][1]
    assert num_rows <= 4 * GROUP_ROWS
    outs = [torch.full((num_rows, weight.shape[0]), torch.nan, dtype=torch.bfloat16) for _, weight in pairs]
    layers, tiles = layers_and_tiles(pairs, outs)
    chosen = plan_for(tiles, num_blocks, tiling.warps, tiling.segments)
    nested_code = weight.code if weight.nested_code is None else weight.nested_code
    library.run_nf4_rows(
        ctypes.c_uint(chosen.num_blocks), *(ctypes.byref(layer) for layer in layers),
        ctypes.c_void_p(weight.code.data_ptr()), ctypes.c_void_p(nested_code.data_ptr()), ctypes.c_uint(num_rows),
        ctypes.c_uint(weight.nested_block_size.bit_length() - 1), ctypes.byref(plan_argument(chosen)),
    )  # fmt: skip
    return outs
