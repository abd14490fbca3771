"""The predicted cost of a training step on the fast path: memory by kind, and tokens/s.

Predicted and measured values: Falcon-7B in NF4 with LoRA r=16 on query_key_value on one H100, loss on half of the
positions (benchmarks/results/train-h100.json). tests/train/test_fast_path_cost.py keeps each row within 25 %.

| precision, memory         | batch    | GiB, measured | predicted | tokens/s, measured | predicted |
|---------------------------|----------|---------------|-----------|--------------------|-----------|
| bf16 fast, cached weights | 8 x 512  | 24.3          | 24.3      | 20,848             | 20,522    |
| bf16 fast, cached weights | 64 x 256 | 48.3          | 48.9      | 22,151             | 20,522    |
| bf16 fast                 | 16 x 512 | 20.0          | 20.3      | 20,377             | 19,681    |
| bf16 lean                 | 8 x 512  | 4.6           | 4.7       | 15,613             | 15,191    |
| fp8 fast, cached weights  | 64 x 256 | 48.5          | 48.6      | 34,249             | 32,611    |
| fp8 fast                  | 16 x 512 | 20.0          | 20.1      | 32,110             | 31,275    |
| fp8 lean                  | 8 x 512  | 4.5           | 4.5       | 23,886             | 24,139    |
"""

from falconer.train.cost import ADAPTER_BYTES, NF4_BYTES, Memory, Shape, head_flop, pass_flop
from falconer.train.ways import Mode

# Share of the bf16 matmul rate that a step reaches, from the table above; FP8 matmuls run at twice that rate.
BF16_EFFICIENCY = 0.73
FP8_EFFICIENCY = 1.16
# The same on two CPU cores, with falcon-mini in fp32 (docs/LOG.md).
CPU_EFFICIENCY = 0.6
# Dequantising 4-bit weights for one micro-batch takes as long as this many tokens.
DEQUANTISING_TOKENS = 350
# Block inputs that are being copied to the host or back in lean memory.
IN_FLIGHT = 3
# Logits of a chunk (`model.likelihood.CHUNK_TARGETS`).
CHUNK = 1024


def fast_path_memory(
    shape: Shape, mode: Mode, *, tokens: int, num_logits: int, quantized: bool, bytes_each: int, on_gpu: bool
) -> Memory:
    """Predict the peak of one micro-batch, forward and backward.

    Args:
        tokens: positions of the micro-batch.
        num_logits: positions whose logits are computed.
        quantized: linear layers in NF4.
        bytes_each: of a value.
    """
    lean, fp8 = mode.memory == "lean", mode.compute == "fp8"
    weights = shape.linear * (NF4_BYTES if quantized else bytes_each) + (shape.embedding + shape.other) * bytes_each
    if mode.caches_weights and quantized:
        # FP8 caches two copies of a byte per value: one for the forward and one for the backward pass.
        weights += shape.linear * (2 if fp8 else bytes_each)
    # Each block stores its input and the outputs of query_key_value, attention and dense_h_to_4h: together as much as
    # the outputs of all four linear layers.
    per_token = bytes_each * shape.outputs
    block = per_token / shape.num_layers
    # The gradients of a block's activations, and some of the width of the residual stream.
    passing = tokens * (block * (1.3 if fp8 else 1.6) + (block if lean else 0))
    if quantized and not mode.caches_weights:
        passing += shape.largest * (1 if fp8 else bytes_each)
    loss = shape.vocab * bytes_each * min(num_logits, CHUNK) + 2 * num_logits * shape.hidden * bytes_each
    inputs = tokens * shape.hidden * bytes_each
    kept = inputs * (IN_FLIGHT if on_gpu else shape.num_layers) if lean else tokens * per_token
    return Memory(weights, ADAPTER_BYTES * shape.adapter, kept, max(loss, passing))


def fast_path_tokens_per_s(
    flops: float, shape: Shape, mode: Mode, *, target_share: float, micro_tokens: float, quantized: bool, on_gpu: bool
) -> float:
    """Return a training step's predicted speed.

    Args:
        flops: the matmul rate in the run's precision, in FLOP/s.
        micro_tokens: positions of a micro-batch, on average.
    """
    efficiency = CPU_EFFICIENCY if not on_gpu else FP8_EFFICIENCY if mode.compute == "fp8" else BF16_EFFICIENCY
    dequantising = DEQUANTISING_TOKENS if quantized and not mode.caches_weights and on_gpu else 0
    rate = efficiency * flops / fast_path_flop_per_token(shape, lean=mode.memory == "lean", target_share=target_share)
    return rate * micro_tokens / (micro_tokens + dequantising)


def fast_path_flop_per_token(shape: Shape, *, lean: bool, target_share: float) -> float:
    """Return the FLOP of a training step per token: forward, input gradient, and in lean memory the forward pass of
    query_key_value and dense_h_to_4h, half of the linear layers, once more."""
    return num_passes(lean=lean) * pass_flop(shape) + head_flop(shape, target_share)


def num_passes(*, lean: bool) -> float:
    """Return how often a training step goes through the linear layers."""
    return 2.5 if lean else 2
