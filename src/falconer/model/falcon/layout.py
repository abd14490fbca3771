"""Which models the fast path supports (Falcon-7B's layout with plain LoRA), and the reason if it does not.

Also where the parts of such a model are.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from falconer import runtime
from falconer.model.falcon.adapters import why_not_only, why_not_plain
from falconer.model.falcon.frozen_linear import is_nf4

QKV, DENSE, UP, DOWN = "query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"
# In the order in which the model's own forward pass runs them and samples their dropout.
LINEARS = (QKV, DENSE, UP, DOWN)
# NF4 blocks and FP8 matmuls need sizes that are multiples of this.
SIZE_MULTIPLE = 64
# With these the attention kernels' tiles fit into every GPU's shared memory (tests/kernels/test_compiles.py).
HEAD_SIZES = (32, 64)


def backbone_of(model: Any) -> Any:
    """Return the model without its head and without PEFT's wrapper."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.base_model


def linears_of(layer: Any) -> dict[str, Any]:
    """Return the linear layers of a block by name, with their PEFT wrappers."""
    heads, mlp = layer.self_attention, layer.mlp
    return {QKV: heads.query_key_value, DENSE: heads.dense, UP: mlp.dense_h_to_4h, DOWN: mlp.dense_4h_to_h}


def why_generic(model: Any) -> str:
    """Return why the fast path can't run a model; "" if it can."""
    backbone = backbone_of(model)
    reason = why_other_layout(backbone.config)
    if reason:
        return reason
    config = backbone.config
    embedding = next(backbone.word_embeddings.parameters())
    if embedding.device.type not in ("cuda", "cpu"):
        return f"it runs on CUDA and CPUs, not on {embedding.device.type}"
    sizes = (config.hidden_size, config.ffn_hidden_size)
    if embedding.is_cuda:
        if embedding.dtype != torch.bfloat16:
            return f"its kernels work in bf16, not {str(embedding.dtype).removeprefix('torch.')}"
        if runtime.metadata_version("triton") == "not installed":
            return "its kernels need the package triton"
        if not runtime.has_c_compiler():
            return "its kernels need a C compiler, and none is installed (apt-get install gcc)"
        if any(size % SIZE_MULTIPLE for size in sizes) or config.head_dim not in HEAD_SIZES:
            wanted = f"sizes in multiples of {SIZE_MULTIPLE} and heads of {' or '.join(map(str, HEAD_SIZES))}"
            return f"its kernels need {wanted}, not {(*sizes, config.head_dim)}"
    return why_other_adapter(model)


def why_other_adapter(model: Any) -> str:
    """Return why the fast path does not support the adapters of a model; "" if it does."""
    layers = backbone_of(model).h
    for number, layer in enumerate(layers):
        for name, module in linears_of(layer).items():
            reason = why_not_plain(module) or _why_not_frozen(getattr(module, "base_layer", module))
            if reason:
                return f"{reason} (block {number}, {name})"
    # Inference reads the head and the embedding without adapters, and training has gradients only in the blocks.
    reason = why_not_only(model, [module for layer in layers for module in linears_of(layer).values()])
    return f"{reason}, and it only supports LoRA on the blocks' linear layers" if reason else ""


def why_other_layout(config: PreTrainedConfig) -> str:
    """Return how an architecture differs from Falcon-7B's layout; "" if it does not."""
    if config.model_type != "falcon":
        return f"it knows Falcon, not {config.model_type}"
    layout = {
        "grouped key/value heads (Falcon-40B's layout)": config.new_decoder_architecture,
        "as many key/value heads as query heads": not config.multi_query,
        "attention before the MLP, not beside it": not config.parallel_attn,
        "ALiBi (Falcon-RW's layout)": config.alibi,
        "biases": config.bias,
        "dropout on the residual stream": config.hidden_dropout > 0,
        f"activation {config.activation}": config.activation != "gelu",
        f"rotary type {config.rope_parameters['rope_type']}": config.rope_parameters["rope_type"] != "default",
    }
    unknown = [name for name, found in layout.items() if found]
    if unknown:
        return f"it supports Falcon-7B's layout, and this model has {', '.join(unknown)}"
    return ""


def _why_not_frozen(module: nn.Module) -> str:
    if not isinstance(module, nn.Linear):
        return f"its linear layers are of type {type(module).__name__}"
    if module.weight.requires_grad:
        return "the base is not frozen"
    return "" if is_nf4(module) or module.weight.dtype.is_floating_point else "4-bit weights are not NF4"
