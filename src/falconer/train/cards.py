"""GPUs that a run can be planned for without having one, and the speed that a roofline predicts of them.

A roofline (Williams et al. 2009, doi:10.1145/1498765.1498785) has two limits: matmuls take as long as their operations
at the card's matmul rate, and everything between them as long as its bytes at the card's memory bandwidth. Three shares
say how much of each limit the fast path reaches. They come from measurements on an H100; the H200's were predicted with
them. No other card has been measured. Falcon-7B in NF4, LoRA r=16 on query_key_value, loss on half of the positions
(benchmarks/results/train-h100.json and engine-h200.json); "cached" are dequantised weights:

| batch, precision, memory    | H100, tokens/s | predicted | H200, tokens/s | predicted |
|-----------------------------|----------------|-----------|----------------|-----------|
| 8 x 512, bf16 fast, cached  | 20,848         | 21,378    | 21,407         | 22,096    |
| 32 x 256, bf16 fast, cached | 21,700         | 21,892    | 22,152         | 22,646    |
| 64 x 256, bf16 fast, cached | 22,151         | 22,158    | 22,183         | 22,931    |
| 8 x 512, bf16 lean          | 15,613         | 16,258    | 16,146         | 17,106    |
| 64 x 256, bf16 lean         | 17,390         | 17,540    | 17,507         | 18,240    |
| 16 x 512, bf16 fast, cached | 21,194         | 21,892    | 21,546         | 22,646    |
| 16 x 512, bf16 fast         | 20,377         | 21,187    | 20,986         | 22,115    |
| 8 x 512, fp8 fast, cached   | 31,976         | 32,220    | 33,590         | 33,879    |
| 32 x 256, fp8 fast, cached  | 34,710         | 33,402    | 35,488         | 35,189    |
| 64 x 256, fp8 fast, cached  | 34,249         | 34,026    | 36,744         | 35,883    |
| 8 x 512, fp8 lean           | 23,886         | 24,801    | 24,592         | 26,505    |
| 64 x 256, fp8 lean          | 27,258         | 27,058    | 28,672         | 28,666    |
| 16 x 512, fp8 fast, cached  | 33,634         | 33,402    | 34,053         | 35,189    |
| 16 x 512, fp8 fast          | 32,110         | 32,411    | 32,794         | 34,416    |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from falconer.errors import FalconerError
from falconer.train.cost import NF4_BYTES, Shape, head_flop, pass_flop
from falconer.train.fast_path_cost import num_passes
from falconer.train.ways import Mode

# Shares of a card's limits that the fast path reaches on an H100 (benchmarks/results/train-h100.json).
BF16_SHARE, FP8_SHARE, BANDWIDTH_SHARE = 0.70, 0.59, 0.8
# What Python needs for a micro-batch before the GPU has enough to do.
HOST_S = 0.009
# Bytes that move between the matmuls of a training step, as a multiple of the outputs of all linear layers: norms read
# and write the residual stream and both branches, GELU its input, output and their gradients, attention and rotary
# embedding their heads, and LoRA its inputs.
TRAFFIC = 6.6
# The largest error of a prediction above (tests/train/test_cards.py).
LARGEST_ERROR = 0.08


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU, by its manufacturer's data sheet.

    Args:
        title: its full name.
        memory_gib: of the card; some of it is never free.
        bandwidth: of its memory, in bytes/s.
        fp32: the rate of matmuls in FLOP/s, without tensor cores.
        bf16, fp8: the rates with tensor cores, sums in fp32, without sparsity; None where it has none.
    """

    title: str
    memory_gib: float
    bandwidth: float
    fp32: float
    bf16: float | None
    fp8: float | None


_T = 1e12
# NVIDIA's data sheets, and its white papers on GA102, AD102, GB202, GA100 and GH100. GeForce cards multiply at half
# their rate where sums are in fp32, which these figures account for.
CARDS: Mapping[str, Card] = MappingProxyType({
    "rtx-3060": Card("GeForce RTX 3060", 12, 0.360 * _T, 12.7 * _T, 25.5 * _T, None),
    "rtx-3090": Card("GeForce RTX 3090", 24, 0.936 * _T, 35.6 * _T, 71.2 * _T, None),
    "rtx-4060-ti": Card("GeForce RTX 4060 Ti 16 GB", 16, 0.288 * _T, 22.1 * _T, 44.1 * _T, 88.3 * _T),
    "rtx-4080": Card("GeForce RTX 4080", 16, 0.717 * _T, 48.7 * _T, 97.5 * _T, 194.9 * _T),
    "rtx-4090": Card("GeForce RTX 4090", 24, 1.008 * _T, 82.6 * _T, 165.2 * _T, 330.3 * _T),
    "rtx-5080": Card("GeForce RTX 5080", 16, 0.960 * _T, 56.3 * _T, 112.6 * _T, 225.1 * _T),
    "rtx-5090": Card("GeForce RTX 5090", 32, 1.792 * _T, 104.8 * _T, 209.5 * _T, 419.0 * _T),
    "rtx-a6000": Card("RTX A6000", 48, 0.768 * _T, 38.7 * _T, 154.8 * _T, None),
    "rtx-6000-ada": Card("RTX 6000 Ada", 48, 0.960 * _T, 91.1 * _T, 364.2 * _T, 728.5 * _T),
    "v100": Card("Tesla V100 32 GB", 32, 0.900 * _T, 15.7 * _T, None, None),
    "t4": Card("Tesla T4", 16, 0.320 * _T, 8.1 * _T, None, None),
    "a10": Card("A10", 24, 0.600 * _T, 31.2 * _T, 125.0 * _T, None),
    "l4": Card("L4", 24, 0.300 * _T, 30.3 * _T, 121.0 * _T, 242.0 * _T),
    "l40s": Card("L40S", 48, 0.864 * _T, 91.6 * _T, 362.0 * _T, 733.0 * _T),
    "a100-40": Card("A100 40 GB", 40, 1.555 * _T, 19.5 * _T, 312.0 * _T, None),
    "a100": Card("A100 80 GB", 80, 2.039 * _T, 19.5 * _T, 312.0 * _T, None),
    "h100": Card("H100 80 GB, SXM", 80, 3.350 * _T, 66.9 * _T, 989.4 * _T, 1978.9 * _T),
    "h200": Card("H200 141 GB, SXM", 141, 4.800 * _T, 66.9 * _T, 989.4 * _T, 1978.9 * _T),
})  # fmt: skip
ALL = "all"


def cards_of(given: str) -> list[Card]:
    """Read the names of cards, separated by commas; "all" are all of them.

    Raises:
        FalconerError: a name is not known.
    """
    names = list(CARDS) if given == ALL else [name.strip().lower() for name in given.split(",")]
    unknown = [name for name in names if name not in CARDS]
    if unknown:
        raise FalconerError(
            f"There are no data of a card '{unknown[0]}'.", f"Known are: {', '.join(CARDS)}; or say: --card {ALL}."
        )
    return [CARDS[name] for name in names]


def roofline_tokens_per_s(
    card: Card, shape: Shape, mode: Mode, *, target_share: float, micro_tokens: float, quantized: bool
) -> float:
    """Return the predicted speed of a training step on the fast path.

    Args:
        micro_tokens: positions of a micro-batch, on average.
        quantized: linear layers in NF4.
    """
    assert card.bf16 is not None, "the fast path computes in bf16"
    fp8, passes = card.fp8 if mode.compute == "fp8" else None, num_passes(lean=mode.memory == "lean")
    bf16_rate, bandwidth = BF16_SHARE * card.bf16, BANDWIDTH_SHARE * card.bandwidth
    rate = FP8_SHARE * fp8 if fp8 else bf16_rate
    # A value has two bytes; a forward and a backward pass are two.
    traffic = TRAFFIC * 2 * shape.outputs * passes / 2
    seconds = passes * pass_flop(shape) / rate + head_flop(shape, target_share) / bf16_rate
    seconds += traffic / bandwidth + HOST_S / micro_tokens
    if quantized and not mode.caches_weights:
        # Each pass over the weights reads them packed and writes them in the format that is multiplied.
        seconds += passes * shape.linear * (NF4_BYTES + (1 if fp8 else 2)) / bandwidth / micro_tokens
    return 1 / seconds
