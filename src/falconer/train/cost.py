"""The predicted cost of a training step on the generic path: memory by kind, and tokens/s.

Predicted and measured values: Falcon-7B in NF4 with LoRA r=16 on query_key_value on one H200 (bf16 matmuls at
770 TFLOP/s). tests/train/test_cost.py keeps each row within 25 %. Ours are in benchmarks/results; the others
compute logits at every position, and the reference recipe has the embedding in fp32.

| run                                  | GiB, measured | predicted | tokens/s, measured | predicted |
|--------------------------------------|---------------|-----------|--------------------|-----------|
| ours, 2,048 tokens, checkpointing    | 5.8           | 5.9       | 5,490              | 5,290     |
| ours, 8,192 tokens, checkpointing    | 11.7          | 12.0      | 7,264              | 7,100     |
| ours, 2,048 tokens                   | 19.6          | 18.8      | 7,997              | 7,890     |
| ours, 4,096 tokens                   | 35.0          | 33.6      | 9,507              | 9,480     |
| PEFT, 8 x 512                        | 44.3          | 44.6      | 8,126              | 9,350     |
| PEFT, 32 x 256                       | 66.8          | 67.6      | 10,401             | 10,330    |
| reference recipe, 8 x 512            | 10.8          | 10.0      | 5,477              | 6,320     |
| reference recipe, 4 x 512            | 7.9           | 7.2       | 4,906              | 5,300     |
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, Conv1D, PreTrainedConfig

from falconer import runtime
from falconer.config import LoraConfig
from falconer.model.falcon.layout import layout_of, why_other_adapter, why_other_layout
from falconer.model.lora import add_adapter, trainable_tensors
from falconer.model.output_head import chunk_targets
from falconer.train.kept_activations import kept_bytes

# 4 bits; one scale for 64 values, itself in 8 bits; one fp32 scale for 256 of those (QLoRA, arXiv:2305.14314).
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# fp32 value, gradient and the two moments of AdamW.
ADAPTER_BYTES = 16
# Share of the matmul rate that a training step reaches on the generic path: from the table above, and from
# falcon-mini on two cores (0.43 to 0.48 with and without checkpointing, on query_key_value and all linear layers).
GPU_EFFICIENCY = 0.42
CPU_EFFICIENCY = 0.45
# On a GPU each micro-batch dequantises every 4-bit weight once per pass, which takes as long as this many tokens (from
# the table above: 0.121 s per micro-batch with checkpointing, 0.081 s without). On a CPU it is negligible.
DEQUANTISING_TOKENS = 970
# The time of a forward pass per input or output feature of an adapter (dropout, casts, low-rank matmuls, sum),
# expressed as the FLOP of a matmul that takes as long; measured on falcon-mini.
ADAPTER_FLOP = 500


@dataclass(frozen=True, slots=True)
class Shape:
    """The properties of an architecture that memory and time depend on.

    Args:
        linear, embedding, other: parameters of linear layers; of embedding and head, counted once if shared; the rest.
        adapter: trainable parameters.
        num_layers, hidden, vocab: sizes.
        outputs: output features of all linear layers but the head, summed.
        adapted_inputs, adapted_outputs: features of all adapted layers, summed.
        norms: widths of all norms, summed.
        largest: parameters of the largest linear layer.
        kept_bytes: bytes stored for each token with falconer's own layers in bf16; None where they can't be used, or
            are not needed.
        score_heads: heads per layer whose T x T scores are stored; 0 where attention is fused.
        why_generic: why the layout or the adapter rules out the fast path; "" if it does not.
        why_fast: the reason for using it if it is not ruled out.
    """

    linear: int
    embedding: int
    other: int
    adapter: int
    num_layers: int
    hidden: int
    vocab: int
    outputs: int
    adapted_inputs: int
    adapted_outputs: int
    norms: int
    largest: int
    kept_bytes: float | None
    score_heads: int
    why_generic: str
    why_fast: str


@dataclass(frozen=True, slots=True)
class Memory:
    """Peak memory of a run's tensors by kind, in bytes.

    Args:
        kept: activations that the forward pass stores for the backward pass.
        passing: temporary tensors: the larger of the loss's at the end of the forward pass and a block's in its
            backward pass.
    """

    weights: float
    adapter: float
    kept: float
    passing: float

    @property
    def total(self) -> float:
        return self.weights + self.adapter + self.kept + self.passing


def measure_shape(architecture: PreTrainedConfig, lora: LoraConfig, path: str = "auto") -> Shape:
    """Build the model and its adapter on the meta device, without memory, and count its parameters.

    Args:
        path: as configured. `kept_bytes` takes a second for a 7B, and is only counted for the generic path.

    Raises:
        FalconerError: `lora.targets` names a module that the model does not have, or that PEFT can't adapt.
    """
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(architecture, trust_remote_code=False)
    model.requires_grad_(False)
    head = model.get_output_embeddings()
    linears = [m for m in model.modules() if isinstance(m, (nn.Linear, Conv1D)) and m is not head]
    sizes = [(m.weight.numel(), m.out_features if isinstance(m, nn.Linear) else m.nf) for m in linears]
    embedding = sum(p.numel() for p in {model.get_input_embeddings().weight, *(head.parameters() if head else ())})
    text = architecture.get_text_config(decoder=True)
    norms = sum(
        _width(m) * _heads_of(name, text) for name, m in model.named_modules() if type(m).__name__.endswith("Norm")
    )
    all_parameters = sum(p.numel() for p in model.parameters())
    with torch.device("meta"):
        adapted = add_adapter(model, r=lora.r, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets, seed=0)
    adapter = trainable_tensors(adapted)
    linear = sum(size for size, _ in sizes)
    why_other = why_other_layout(architecture)
    why_generic = why_other or why_other_adapter(adapted)
    return Shape(
        linear=linear, embedding=embedding, other=all_parameters - linear - embedding,
        adapter=sum(p.numel() for p in adapter.values()),
        num_layers=text.num_hidden_layers, hidden=text.hidden_size, vocab=text.vocab_size,
        outputs=sum(out for _, out in sizes),
        adapted_inputs=sum(p.shape[1] for name, p in adapter.items() if "lora_A" in name),
        adapted_outputs=sum(p.shape[0] for name, p in adapter.items() if "lora_B" in name),
        norms=norms, largest=max(size for size, _ in sizes),
        # transformers gives Falcon's attention a mask and one key head for 71 query heads, which no fused kernel takes.
        score_heads=architecture.num_attention_heads if architecture.model_type == "falcon" else 0,
        why_generic=why_generic,
        why_fast="" if why_other else layout_of(architecture).why_fast,
        # Last: the weights become bf16.
        kept_bytes=kept_bytes(adapted) if path == "generic" or why_generic else None,
    )  # fmt: skip


def _width(norm: Any) -> int:
    weight = getattr(norm, "weight", None)
    # OLMo's norms have no parameters, some RMS norms no sizes.
    return int(weight.numel() if weight is not None else math.prod(getattr(norm, "normalized_shape", (0,))))


def _heads_of(name: str, text: PreTrainedConfig) -> int:
    """Return how many heads a norm is applied to one by one; 1 for any other norm."""
    heads = getattr(text, "num_attention_heads", 1)
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    return {"q_norm": heads, "k_norm": key_heads}.get(name.rpartition(".")[2], 1)


def own_layers_memory(
    shape: Shape, *, tokens: int, longest: int, num_logits: int, checkpointing: bool, quantized: bool, bytes_each: int
) -> Memory:
    """Predict the peak of one micro-batch on the generic path of a GPU, with falconer's own layers.

    Args:
        shape: its `kept_bytes` are not None.
        tokens, longest, num_logits, quantized, bytes_each: see `training_memory`.
    """
    assert shape.kept_bytes is not None
    per_token = shape.kept_bytes * bytes_each / 2 + 4 * shape.score_heads * longest * shape.num_layers
    block = tokens * per_token / shape.num_layers
    kept = tokens * bytes_each * shape.hidden * shape.num_layers if checkpointing else tokens * per_token
    backward = (2 if checkpointing else 1) * block + (shape.largest * bytes_each if quantized else 0)
    # A chunk's logits, which become their gradient; the hidden states of all targets, and their gradient twice.
    rows = min(num_logits, chunk_targets(shape.vocab))
    loss = bytes_each * (shape.vocab * rows + 3 * num_logits * shape.hidden)
    # The adapter is copied in the dtype of the weights.
    adapter = (ADAPTER_BYTES + bytes_each) * shape.adapter
    return Memory(_weights(shape, quantized, bytes_each), adapter, kept, max(loss, backward))


def _weights(shape: Shape, quantized: bool, bytes_each: int) -> float:
    """Return the bytes of the frozen weights."""
    return shape.linear * (NF4_BYTES if quantized else bytes_each) + (shape.embedding + shape.other) * bytes_each


def training_memory(
    shape: Shape, *, tokens: int, longest: int, num_logits: int, checkpointing: bool, quantized: bool, bytes_each: int,
    chunk: int | None = None,
) -> Memory:  # fmt: skip
    """Predict the peak of one micro-batch, forward and backward, on the generic path with the model's own layers.

    Args:
        tokens, longest: positions of the micro-batch, and of its longest row.
        num_logits: positions whose logits are computed.
        quantized: linear layers in NF4.
        bytes_each: of a value of the weights, and of the run's precision.
        chunk: for other software: the logits of all positions are stored, computed so many at a time.
    """
    weights = _weights(shape, quantized, bytes_each)
    # Norms run in fp32 under autocast and a 4-bit layer returns the dtype of its input, so what is stored for
    # the backward pass is fp32: each norm's input, each linear layer's output (as input of what follows), and each
    # adapted layer's input once more, dropped out, in the run's precision with a mask of one byte.
    per_token = 4 * (shape.norms + shape.outputs) + (1 + bytes_each) * shape.adapted_inputs
    scores = 4 * shape.score_heads * longest * shape.num_layers
    values = tokens * (per_token + scores)
    block = values / shape.num_layers
    # With checkpointing only each block's input is stored, and its activations are recomputed in its backward pass.
    kept = tokens * 4 * shape.hidden * shape.num_layers if checkpointing else values
    backward = (2 if checkpointing else 1) * block + (shape.largest * bytes_each if quantized else 0)
    if chunk is None:
        # A chunk's logits, which become their gradient, and in plain torch copies in fp32.
        rows = min(num_logits, chunk_targets(shape.vocab))
        loss = shape.vocab * rows * (bytes_each + 8) + 3 * num_logits * shape.hidden * bytes_each
    else:
        # Log-probabilities are stored for the backward pass; a chunk's logits, their fp32 copy and gradient are not.
        loss = shape.vocab * (4 * num_logits + (8 + bytes_each) * min(num_logits, chunk))
    return Memory(weights, ADAPTER_BYTES * shape.adapter, kept, max(loss, backward))


def flop_per_token(shape: Shape, *, checkpointing: bool, target_share: float) -> float:
    """Return the FLOP of a training step per token: 2 per parameter for the forward pass, 2 for the input gradient
    (frozen weights need none), 2 for the second forward pass of checkpointing. The head is computed at target positions
    only, and attention is not counted."""
    return (3 if checkpointing else 2) * pass_flop(shape) + head_flop(shape, target_share)


def pass_flop(shape: Shape) -> float:
    """Return the FLOP of a pass over the linear layers and their adapters, per token, forward or backward."""
    return 2 * shape.linear + ADAPTER_FLOP * (shape.adapted_inputs + shape.adapted_outputs)


def head_flop(shape: Shape, target_share: float) -> float:
    """Return the FLOP of the head, forward and backward, per token."""
    return 4 * target_share * shape.vocab * shape.hidden


def tokens_per_s(flops: float, flop_each: float, *, micro_tokens: float, on_gpu: bool, quantized: bool) -> float:
    """Return a training step's predicted speed.

    Args:
        flops: the matmul rate, in FLOP/s.
        flop_each: FLOP per token.
        micro_tokens: positions of a micro-batch, on average.
    """
    if not on_gpu:
        return CPU_EFFICIENCY * flops / flop_each
    dequantising = DEQUANTISING_TOKENS if quantized else 0
    return GPU_EFFICIENCY * flops / flop_each * micro_tokens / (micro_tokens + dequantising)


def measure_flops(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Measure the matmul rate of this device, in FLOP/s: the fastest of several, in case other programs are running."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    left @ right
    runtime.synchronize(device)
    started, fastest = time.perf_counter(), float("inf")
    while (before := time.perf_counter()) < started + seconds:
        left @ right
        runtime.synchronize(device)
        fastest = min(fastest, time.perf_counter() - before)
    return 2 * size**3 / fastest
