"""The data types of the kernels' arguments: NF4 and FP8 matrices, norms, heads, dropout masks, the layout of a batch.

Shapes: M rows (tokens), D hidden, K inputs, N outputs.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Literal

import torch

FP8 = torch.float8_e4m3fn
# The largest number of e4m3 (Micikevicius et al. 2022, arXiv:2209.05433).
FP8_MAX = 448.0
# Scale of a row of zeros; far below any row that carries something.
SMALLEST_SCALE = 1e-30
# Maximum number of rows for the fused 4-bit product: one tile of the tensor cores.
NF4_ROWS = 16
# The activations of gated MLPs; the kernels get their places in this tuple.
Activation = Literal["silu", "gelu", "gelu_tanh"]
ACTIVATIONS: tuple[Activation, ...] = ("silu", "gelu", "gelu_tanh")


@dataclass(frozen=True, slots=True)
class Nf4:
    """A weight [N, K] in 4 bits, as bitsandbytes stores it (QLoRA, arXiv:2305.14314).

    Args:
        packed: two codes a byte, the first in the high half, row-major; uint8 [N * K / 2].
        code: the 16 values; fp32 [16].
        absmax: scale of each `block_size` values, fp32, or uint8 if it is quantised itself (double quantisation).
        nested_code, nested_absmax, offset: absmax = nested_code[absmax] * nested_absmax[block / nested_block_size] +
            offset; fp32. None where absmax is not quantised.
        shape: (N, K).
    """

    packed: torch.Tensor
    code: torch.Tensor
    absmax: torch.Tensor
    nested_code: torch.Tensor | None
    nested_absmax: torch.Tensor | None
    offset: torch.Tensor | None
    block_size: int
    nested_block_size: int
    shape: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Fp8:
    """A matrix [M, K] in e4m3: row m is `values[m] * scale[m]`; fp8 [M, K] and fp32 [M, 1]."""

    values: torch.Tensor
    scale: torch.Tensor


@dataclass(frozen=True, slots=True)
class Both:
    """A matrix [M, K] in two forms: in the weights' own format for the adapters, in FP8 for the base matmuls."""

    plain: torch.Tensor
    fp8: Fp8


# A matrix [M, K] on its way into a matrix product, in the form or forms that were wanted.
Operand = torch.Tensor | Fp8 | Both


class Want(Enum):
    """In which form a kernel leaves its result: a plain tensor, an `Fp8`, or `Both`."""

    PLAIN = "plain"
    FP8 = "fp8"
    BOTH = "both"

    @property
    def plain(self) -> bool:
        return self is not Want.FP8

    @property
    def fp8(self) -> bool:
        return self is not Want.PLAIN


def plain_of(x: Operand) -> torch.Tensor:
    """Return an operand as a plain tensor.

    Raises:
        TypeError: it was made in FP8 alone.
    """
    if isinstance(x, torch.Tensor):
        return x
    if isinstance(x, Both):
        return x.plain
    raise TypeError("This operand was made in FP8 alone; whoever made it should have wanted BOTH.")


def fp8_of(x: Operand) -> Fp8:
    """Return an operand in FP8.

    Raises:
        TypeError: it was made as a plain tensor alone.
    """
    if isinstance(x, Fp8):
        return x
    if isinstance(x, Both):
        return x.fp8
    raise TypeError("This operand was made as a plain tensor alone; whoever made it should have wanted FP8 or BOTH.")


@dataclass(frozen=True, slots=True)
class Norm:
    """A LayerNorm with frozen weights; `weight` and `bias` are [D]."""

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float


@dataclass(frozen=True, slots=True)
class Normed:
    """A LayerNorm's output that is not stored but made again where it is read.

    Args:
        hidden: the norm's input [M, D].
        mean, rstd: fp32 [M].
    """

    hidden: torch.Tensor
    mean: torch.Tensor
    rstd: torch.Tensor
    norm: Norm


@dataclass(frozen=True, slots=True)
class Dropout:
    """What a LoRA input loses.

    Args:
        share: dropped, 0-1; what is kept is divided by 1 - share.
        mask: True where kept, bool [M, K] (`reference`), or the seed that the mask is a function of (`fused`): a
            number, or an int64 scalar on the GPU, which a CUDA graph reads anew.
    """

    share: float
    mask: torch.Tensor | int


@dataclass(frozen=True, slots=True)
class Layout:
    """How the tokens of a batch, one after the other, are dialogues.

    Args:
        num_rows, longest: dialogues, and tokens of the longest.
        starts: where each dialogue begins, and the end; int32 [num_rows + 1]. None: every one has `longest` tokens,
            pads included.
        positions: each token's place in its own text, int64 [M]; None: as it stands in its dialogue.
        mask: 0 where a token of a row sees another one, and -inf where it does not, [num_rows, 1, longest, longest];
            None: every one before it. Positions and mask are for rows with branches, which only `reference` knows.
    """

    num_rows: int
    longest: int
    starts: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    mask: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Heads:
    """How the width of a fused query-key-value projection, [M, N], is divided into heads.

    Each key/value head has a group of query heads. The groups are one after the other, and in each are its query heads,
    the key head and the value head. Falcon-7B has one group (multi-query attention, Shazeer 2019, arXiv:1911.02150),
    Falcon-40B eight (grouped-query attention, Ainslie et al. 2023, arXiv:2305.13245).

    Args:
        num_groups: key/value heads.
        num_queries: query heads of all groups; a multiple of `num_groups`.
        size: of a head.
    """

    num_groups: int
    num_queries: int
    size: int

    @property
    def queries_each(self) -> int:
        """Query heads of a group."""
        return self.num_queries // self.num_groups

    @property
    def total(self) -> int:
        """All heads of the projection: queries, keys and values."""
        return self.num_queries + 2 * self.num_groups

    @property
    def width(self) -> int:
        """N, the width of the projection."""
        return self.total * self.size


@dataclass(frozen=True, slots=True)
class Attended:
    """Attention's output [M, D], and the logarithms of its sums, which the backward pass needs."""

    out: torch.Tensor
    logsumexp: tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class Branches:
    """Short sequences that go on from somewhere in a shared prefix; all tensors are int64.

    A branch's queries see the whole of its part of the prefix cache, and of its own keys those up to themselves. Its
    own tokens may be a tree, a token before those that go on from it; then a query sees those on its way to the root.

    Args:
        num_branches, longest: branches, and queries of the one with the most.
        starts: where the queries of each begin in the batch, and the end; [num_branches + 1]. None: each has one.
        prefix_starts, prefix_lengths: each one's part of the prefix cache; a length may be 0.
        own_starts, own_lengths: its own keys, the last of which belongs to its last query.
        ends: of each own key of any branch, the number of its branch's own keys before the first one behind it that
            does not go on from it, [O]; None: the own keys of each branch are one text.
    """

    num_branches: int
    longest: int
    starts: torch.Tensor | None
    prefix_starts: torch.Tensor
    prefix_lengths: torch.Tensor
    own_starts: torch.Tensor
    own_lengths: torch.Tensor
    ends: torch.Tensor | None = None
