"""A tiny Falcon of one of the layouts with an adapter, a batch with every awkward row, and its loss and gradients."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from falconer.model.likelihood import target_nll
from falconer.model.load import bnb
from falconer.model.lora import add_adapter, trainable_tensors
from falconer.model.output_head import Head, head_of
from falconer.records import Batch
from tiny import config_of, make_two_norms_unlike

VOCAB = 500
# The names of the tiny models with each layout, in `tiny.py`.
LAYOUTS: Mapping[str, str] = MappingProxyType({"7b": "falcon", "40b": "falcon-40b", "11b": "falcon-11b"})
# The same for a GPU, where the size of heads is the real one in each layout: 64, 64 and 128.
GPU_SHAPE: Mapping[str, Any] = MappingProxyType({
    "hidden_size": 256, "num_attention_heads": 4, "ffn_hidden_size": 1024, "num_hidden_layers": 4, "vocab_size": 512,
})  # fmt: skip
GPU_SHAPES: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    "7b": GPU_SHAPE, "40b": GPU_SHAPE, "11b": GPU_SHAPE | {"hidden_size": 512},
})  # fmt: skip


def tiny_falcon(
    dtype: torch.dtype, *, targets: str = "query_key_value", dropout: float = 0.0, device: str = "cpu",
    nf4: bool = False, rank: int = 4, layout: str = "7b", **shape: Any,
) -> Any:  # fmt: skip
    """Return a frozen model with weights of bf16's precision and an adapter that does something, in training mode.

    Args:
        layout: of LAYOUTS.
        shape: further changes of the configuration.
    """
    config = config_of(LAYOUTS[layout], VOCAB, 11)
    for name, value in shape.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    make_two_norms_unlike(model)
    model = model.to(torch.bfloat16).to(dtype)
    model.requires_grad_(False)
    if nf4:
        _quantise(model, dtype, device)
    model = add_adapter(model.to(device), r=rank, alpha=2 * rank, dropout=dropout, targets=targets, seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in trainable_tensors(model).values():
        values = 0.1 * torch.randn(parameter.shape, generator=generator)
        kept = torch.float64 if dtype == torch.float64 else torch.float32
        parameter.data = values.to(torch.bfloat16).to(device, kept)
    return model.train()


def _quantise(model: Any, dtype: torch.dtype, device: str) -> None:
    for layer in model.transformer.h:
        for parent, name in (
            (layer.self_attention, "query_key_value"), (layer.self_attention, "dense"), (layer.mlp, "dense_h_to_4h"),
            (layer.mlp, "dense_4h_to_h"),
        ):  # fmt: skip
            whole = getattr(parent, name)
            packed = bnb.nn.Linear4bit(
                whole.in_features, whole.out_features, bias=False, compute_dtype=dtype, quant_type="nf4",
                compress_statistics=True,
            )  # fmt: skip
            packed.weight = bnb.nn.Params4bit(
                whole.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
            )._quantize(torch.device(device))
            packed.support_avx512bf16_for_cpu = False
            setattr(parent, name, packed)


def awkward_batch(lengths: tuple[int, ...] = (37, 20, 2, 11)) -> Batch:
    """Return rows of odd lengths: one with a one-token reply, the last without any target."""
    rng = np.random.default_rng(0)
    width = -(-max(lengths) // 8) * 8
    ids = np.full((len(lengths), width), 11)
    is_target = np.zeros(ids.shape, dtype=bool)
    for row, length in enumerate(lengths):
        ids[row, :length] = rng.integers(0, VOCAB, length)
        if row < len(lengths) - 1:
            is_target[row, max(1, length // 2) : length] = True
    return Batch(ids, is_target, np.array(lengths), tuple(f"row {row}" for row in range(len(lengths))))


def loss_and_gradients(
    model: Any, batch: Batch, seed: int = 5, head: Head | None = None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return every target's likelihood, and the gradients of a sum that weights each differently.

    Args:
        head: of the model, if it is known; to find it takes five passes, of seconds each by Triton's interpreter.
    """
    head = head or head_of(model)
    torch.manual_seed(seed)
    model.zero_grad(set_to_none=True)
    bf16 = next(model.parameters()).dtype == torch.bfloat16
    with torch.autocast(next(model.parameters()).device.type, dtype=torch.bfloat16, enabled=bf16):
        nll = target_nll(model, batch, head_on_targets=head)
    (nll * torch.linspace(0.1, 1, len(nll), device=nll.device)).sum().backward()
    return nll.detach().double(), {name: p.grad.double() for name, p in trainable_tensors(model).items()}


def flat(gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients.values()])
