"""Falcon models and adapters with random weights for benchmarks, quantised layer by layer, without a checkpoint.

Also the recipe that most notebooks follow, for comparison.
"""

from falconer.model.bnb import bnb

# isort: split
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from peft import PeftModel, prepare_model_for_kbit_training
from torch import nn
from transformers import FalconConfig, FalconForCausalLM

from falconer.model.lora import add_adapter, trainable_tensors

# tiiuae/falcon-7b's config.json.
FALCON_7B: MappingProxyType[str, Any] = MappingProxyType({
    "vocab_size": 65024, "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71, "multi_query": True,
    "parallel_attn": True, "new_decoder_architecture": False, "bias": False, "alibi": False,
    "max_position_embeddings": 2048, "bos_token_id": 11, "eos_token_id": 11,
})  # fmt: skip
# tiiuae/falcon-40b's config.json: grouped key/value heads, and two norms in a block.
FALCON_40B: MappingProxyType[str, Any] = MappingProxyType({
    "vocab_size": 65024, "hidden_size": 8192, "num_hidden_layers": 60, "num_attention_heads": 128, "num_kv_heads": 8,
    "new_decoder_architecture": True, "parallel_attn": True, "bias": False, "alibi": False,
    "max_position_embeddings": 2048, "bos_token_id": 11, "eos_token_id": 11,
})  # fmt: skip
# tiiuae/falcon-11B's config.json (Falcon 2): grouped key/value heads, one norm in a block, and a head of its own.
FALCON_11B: MappingProxyType[str, Any] = MappingProxyType({
    "vocab_size": 65024, "hidden_size": 4096, "ffn_hidden_size": 16384, "num_hidden_layers": 60,
    "num_attention_heads": 32, "num_kv_heads": 8, "num_ln_in_parallel_attn": 1, "new_decoder_architecture": True,
    "parallel_attn": True, "bias": False, "alibi": False, "tie_word_embeddings": False, "rope_theta": 500042.0,
    "max_position_embeddings": 8192, "bos_token_id": 11, "eos_token_id": 11,
})  # fmt: skip
INITIAL_STD = 0.02


def untrained_falcon(shape: Mapping[str, Any], device: torch.device, dtype: torch.dtype, *, nf4: bool) -> Any:
    """Return a frozen `FalconForCausalLM` in evaluation mode with normally distributed weights.

    Args:
        shape: arguments of `FalconConfig`.
        dtype: of unquantised weights, and of matmuls.
        nf4: every linear layer except the head in NF4 with double quantisation.
    """
    config = FalconConfig(**shape)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model: Any = FalconForCausalLM(config)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and name != "lm_head":
                setattr(module, name, _random_linear(child, device, dtype, nf4))
            elif isinstance(child, nn.LayerNorm):
                setattr(module, name, nn.LayerNorm(child.normalized_shape, child.eps, device=device, dtype=dtype))
    backbone = model.transformer
    backbone.word_embeddings.weight = _random_weight(config.vocab_size, config.hidden_size, device, dtype)
    backbone.rotary_emb = type(backbone.rotary_emb)(config).to(device)
    if not config.tie_word_embeddings:
        model.lm_head.weight = _random_weight(config.vocab_size, config.hidden_size, device, dtype)
    model.tie_weights()
    if nf4:
        model.is_loaded_in_4bit = model.is_quantized = True
    model.config.use_cache = False
    model.requires_grad_(False)
    return model.eval()


def as_reference_recipe(model: Any) -> Any:
    """Prepare a 4-bit model as in PEFT's guides: norms and embedding in fp32, gradient checkpointing."""
    return prepare_model_for_kbit_training(
        model, use_gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": True}
    )


def _random_weight(num_rows: int, width: int, device: torch.device, dtype: torch.dtype) -> nn.Parameter:
    weight = torch.empty(num_rows, width, device=device, dtype=dtype).normal_(std=INITIAL_STD)
    return nn.Parameter(weight, requires_grad=False)


def _random_linear(layer: nn.Linear, device: torch.device, dtype: torch.dtype, nf4: bool) -> nn.Module:
    weight = _random_weight(layer.out_features, layer.in_features, device, dtype)
    if not nf4:
        layer.weight = weight
        return layer
    quantized = bnb.nn.Linear4bit(
        layer.in_features, layer.out_features, bias=False, compute_dtype=dtype, compress_statistics=True,
        quant_type="nf4", device="meta",
    )  # fmt: skip
    quantized.weight = bnb.nn.Params4bit(
        weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
    )._quantize(device)
    quantized.support_avx512bf16_for_cpu = False
    return quantized


def random_adapter(model: Any, *, r: int, targets: str, seed: int) -> PeftModel:
    """Return a model with a LoRA of random weights, which changes what the model says: a new one does not.

    Args:
        targets: as `lora.add_adapter` takes them.
    """
    adapted = add_adapter(model, r=r, alpha=2 * r, dropout=0.0, targets=targets, seed=seed)
    with torch.no_grad():
        for name, parameter in trainable_tensors(adapted).items():
            if "lora_B" in name:
                parameter.normal_(std=INITIAL_STD)
    return adapted
