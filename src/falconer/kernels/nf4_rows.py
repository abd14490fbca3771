"""Multiplying 1 to 16 rows with one or two 4-bit weights in one launch, by the CUDA kernel of `nf4_rows.cu`.

It is compiled with NVRTC when it is first needed, and needs compute capability 8.0 or later. `nf4_product.py` is the
kernel for GPUs and weights that this one does not know.

Shapes: M rows of the input, N outputs, K inputs.
"""

import ctypes
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch

from falconer.kernels.cuda_driver import DriverError, LoadedKernel
from falconer.kernels.formats import NF4_ROWS, Nf4
from falconer.kernels.nvrtc import CannotCompile, CudaSource, Nvrtc, cached_cubin
from falconer.kernels.row_plan import TILE, Tiles, plan_for

# Rows of the input in a group: the tensor cores' eight columns hold the sums of four rows in two NF4 blocks.
GROUP_ROWS = 4
BLOCK_SIZE = 64
OLDEST = (8, 0)
# From here on a kernel may start before the one before it has ended.
EARLY_STARTS = (9, 0)
TABLE_BYTES, CODES_BYTES = 256 * 32 * 4, 256 * 4


@dataclass(frozen=True, slots=True)
class Tiling:
    """What the kernel is compiled with: see `nf4_rows.cu`. `per_sm` thread blocks run on a multiprocessor at once."""

    warps: int
    per_sm: int
    step: int
    first_items: int = 4
    segments: int = 3

    def options(self, groups: int, nested: bool) -> list[str]:
        """Return the compiler's definitions.

        Args:
            groups: of GROUP_ROWS rows.
            nested: the scales are quantised themselves.
        """
        values = {
            "GROUPS": groups, "NESTED": int(nested), "WARPS": self.warps, "BLOCKS_PER_SM": self.per_sm,
            "STEP": self.step, "FIRST_ITEMS": self.first_items, "SEGMENTS": self.segments,
        }  # fmt: skip
        return [f"-D{name}={value}" for name, value in values.items()]

    def shared_bytes(self, groups: int) -> int:
        """Return the shared memory of a thread block."""
        return TABLE_BYTES + CODES_BYTES + 4 * self.warps * self.segments * GROUP_ROWS * groups * TILE


# By groups of rows. All fit into the 99 KiB of an RTX 3090's or 4090's thread block.
TILINGS = (Tiling(24, 1, 1), Tiling(24, 1, 1), Tiling(16, 1, 1), Tiling(16, 1, 1))


class _Layer(ctypes.Structure):
    """`Layer` of `nf4_rows.cu`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("packed", "absmax", "nested_absmax", "offset", "x", "out")),
        ("num_outputs", ctypes.c_uint), ("num_blocks", ctypes.c_uint),
    )  # fmt: skip


class _Plan(ctypes.Structure):
    """`Plan` of `nf4_rows.cu`."""

    _fields_ = tuple((name, ctypes.c_uint) for name in ("each", "more", "few", "many", "rest"))


def source() -> CudaSource:
    """Return the kernel's source."""
    texts = {name: files("falconer.kernels").joinpath(name).read_text("utf-8") for name in ("nf4_rows.cu", "ptx.cuh")}
    return CudaSource("nf4_rows.cu", texts["nf4_rows.cu"], (("ptx.cuh", texts["ptx.cuh"]),))


def options(capability: tuple[int, int], tiling: Tiling, groups: int, nested: bool) -> list[str]:
    """Return all of the compiler's options for a compute capability."""
    architecture = f"--gpu-architecture=sm_{capability[0]}{capability[1]}"
    return [architecture, "--std=c++17", *tiling.options(groups, nested)]


class RowProducts:
    """The kernel on one device, compiled for every number of rows.

    Args:
        device: a CUDA device.
        nested: the weights' scales are quantised themselves.
        cache: the folder of compiled kernels, None without one.
        tilings: by groups of rows.
        starts_early: launches may start before the kernel before has ended; None: where the device can.

    Raises:
        CannotCompile: with the reason, in plain words.
    """

    def __init__(
        self, device: torch.device, nested: bool, cache: Path | None, tilings: Sequence[Tiling] = TILINGS,
        starts_early: bool | None = None,
    ) -> None:  # fmt: skip
        if torch.version.cuda is None:
            raise CannotCompile("this torch is built without CUDA")
        capability = torch.cuda.get_device_capability(device)
        name = ".".join(map(str, capability))
        if capability < OLDEST:
            raise CannotCompile(f"compute capability {name} is below 8.0")
        nvrtc = Nvrtc(torch.version.cuda)
        if int(name.replace(".", "")) not in nvrtc.architectures:
            raise CannotCompile(f"NVRTC {nvrtc.version} is older than compute capability {name}")
        self.device, self.nested, self.tilings = device, nested, tuple(tilings)
        self.starts_early = capability >= EARLY_STARTS if starts_early is None else starts_early
        self._multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
        text = source()

        def compiled(groups: int) -> bytes:
            return cached_cubin(nvrtc, text, options(capability, tilings[groups - 1], groups, nested), cache)

        numbers = range(1, len(tilings) + 1)
        with ThreadPoolExecutor(len(tilings)) as pool:
            cubins = list(pool.map(compiled, numbers))
        try:
            self._kernels = [
                LoadedKernel(cubin, "nf4_rows", device, tilings[groups - 1].shared_bytes(groups))
                for groups, cubin in zip(numbers, cubins, strict=True)
            ]
        except DriverError as error:
            raise CannotCompile(str(error)) from error

    def why_not(self, weight: Nf4) -> str:
        """Return why the kernel can't multiply with a weight; "" if it can."""
        num_outputs, width = weight.shape
        if weight.block_size != BLOCK_SIZE:
            return f"its blocks are of {weight.block_size} values, not {BLOCK_SIZE}"
        if width % BLOCK_SIZE or width < 2 * BLOCK_SIZE or num_outputs % TILE:
            return f"its shape is {num_outputs} x {width}, not multiples of {TILE} x {BLOCK_SIZE} with two blocks a row"
        if (weight.nested_absmax is not None) != self.nested:
            return f"its scales are {'not ' if self.nested else ''}quantised themselves"
        if weight.nested_block_size & (weight.nested_block_size - 1):
            return f"its scales are in blocks of {weight.nested_block_size}, not a power of two"
        if weight.packed.device != self.device or weight.packed.data_ptr() % 16:
            return f"it is not on {self.device}, or not aligned to 16 bytes"
        return ""

    def goes_with(self, one: Nf4, other: Nf4) -> bool:
        """Tell whether two weights may share a launch: their values have the same codes."""
        if self.why_not(one) or self.why_not(other) or one.nested_block_size != other.nested_block_size:
            return False
        pairs = [(one.code, other.code), (one.nested_code, other.nested_code)]
        return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)

    def products(self, pairs: Sequence[tuple[torch.Tensor, Nf4]]) -> list[torch.Tensor]:
        """Return each input [M, K] times its transposed weight, [M, N], in bf16.

        Args:
            pairs: one, or two that `goes_with` each other, of (bf16 input with 1 to NF4_ROWS rows, weight).
        """
        num_rows = len(pairs[0][0])
        assert 1 <= len(pairs) <= 2 and 1 <= num_rows <= NF4_ROWS
        outs = []
        for x_MK, weight in pairs:
            assert x_MK.dtype == torch.bfloat16 and x_MK.device == self.device and x_MK.is_contiguous()
            assert x_MK.shape == (num_rows, weight.shape[1]) and not x_MK.data_ptr() % 16, "see `why_not`"
            outs.append(torch.empty(num_rows, weight.shape[0], dtype=x_MK.dtype, device=x_MK.device))
        layers = [_layer(x_MK, weight, out_MN) for (x_MK, weight), out_MN in zip(pairs, outs, strict=True)]
        layers, tiles = _in_order(layers, [Tiles.of(*weight.shape) for _, weight in pairs])
        groups = -(-num_rows // GROUP_ROWS)
        tiling = self.tilings[groups - 1]
        chosen = plan_for(tiles, self._multiprocessors * tiling.per_sm, tiling.warps, tiling.segments)
        weight = pairs[0][1]
        nested_code = weight.code if weight.nested_code is None else weight.nested_code
        self._kernels[groups - 1].launch(
            chosen.num_blocks, 32 * tiling.warps,
            [
                *layers, ctypes.c_void_p(weight.code.data_ptr()), ctypes.c_void_p(nested_code.data_ptr()),
                ctypes.c_uint(num_rows), ctypes.c_uint(weight.nested_block_size.bit_length() - 1),
                _Plan(chosen.each, chosen.more, chosen.few, chosen.many, chosen.rest),
            ],
            starts_early=self.starts_early,
        )  # fmt: skip
        return outs


def _in_order(layers: list[ctypes.Structure], tiles: list[Tiles]) -> tuple[list[ctypes.Structure], tuple[Tiles, Tiles]]:
    """Return two layers in the order in which `row_plan.plan` wants them; of one alone, the second has no tiles."""
    if len(layers) == 1:
        return [layers[0], layers[0]], (tiles[0], Tiles(0, tiles[0].items))
    # Of layers with equal tiles, the larger one is the second: it divides more finely what is left.
    if (tiles[0].items, -tiles[0].num) < (tiles[1].items, -tiles[1].num):
        return layers[::-1], (tiles[1], tiles[0])
    return layers, (tiles[0], tiles[1])


def _layer(x_MK: torch.Tensor, weight: Nf4, out_MN: torch.Tensor) -> ctypes.Structure:
    nested = [0 if one is None else one.data_ptr() for one in (weight.nested_absmax, weight.offset)]
    return _Layer(
        weight.packed.data_ptr(), weight.absmax.data_ptr(), *nested, x_MK.data_ptr(), out_MN.data_ptr(),
        weight.shape[0], weight.shape[1] // BLOCK_SIZE,
    )  # fmt: skip
