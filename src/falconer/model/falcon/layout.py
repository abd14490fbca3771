"""Which models the fast path supports (the layouts of Falcon-7B, 40B and 11B with plain LoRA), and why not others.

Also how these layouts differ, and where the parts of such a model are.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from falconer import runtime
from falconer.kernels.formats import Heads
from falconer.model.falcon.adapters import why_not_only, why_not_plain
from falconer.model.falcon.frozen_linear import is_nf4

QKV, DENSE, UP, DOWN = "query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"
# In the order in which the model's own forward pass runs them and samples their dropout.
LINEARS = (QKV, DENSE, UP, DOWN)
# Those that can be multiplied at the same time: the readers of the norms' outputs, and the makers of the two branches.
PAIRS = ((QKV, UP), (DENSE, DOWN))
# NF4 blocks and FP8 matmuls need sizes that are multiples of this.
SIZE_MULTIPLE = 64
# With these the attention kernels' tiles fit into every GPU's shared memory (tests/kernels/test_compiles.py).
HEAD_SIZES = (32, 64, 128)
# transformers' names of a block's norms: one for both halves, or one for attention and one for the MLP.
ONE_NORM, TWO_NORMS = ("input_layernorm",), ("ln_attn", "ln_mlp")


@dataclass(frozen=True, slots=True)
class ModelLayout:
    """What distinguishes the blocks of one Falcon from another's; the fast path knows no other difference.

    Widths are those of the weights, angles those of the model's own rotary module, and the head's weight is asked of
    the model, so it makes no difference whether the embedding shares it.

    Args:
        owner: the model that is known for this layout.
        heads: of the fused projection.
        norms: the names of a block's norms: attention's first and the MLP's last, which may be the same one.
    """

    owner: str
    heads: Heads
    norms: tuple[str, ...]

    @property
    def why_fast(self) -> str:
        """The reason for using the fast path, as it is shown."""
        return f"the model has {self.owner}'s layout"


def layout_of(config: PreTrainedConfig) -> ModelLayout:
    """Return the layout of a model for which `why_other_layout` returns ""."""
    num_groups = config.num_kv_heads if config.new_decoder_architecture else 1
    heads = Heads(num_groups, config.num_attention_heads, config.head_dim)
    if not config.new_decoder_architecture:
        return ModelLayout("Falcon-7B", heads, ONE_NORM)
    if config.num_ln_in_parallel_attn == 1:
        return ModelLayout("Falcon-11B", heads, ONE_NORM)
    return ModelLayout("Falcon-40B", heads, TWO_NORMS)


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
    """Return how an architecture differs from the layouts that the fast path knows; "" if it does not."""
    if config.model_type != "falcon":
        return f"it knows Falcon, not {config.model_type}"
    is_grouped, num_norms = config.new_decoder_architecture, config.num_ln_in_parallel_attn
    layout = {
        "as many key/value heads as query heads": not is_grouped and not config.multi_query,
        f"{config.num_attention_heads} query heads for {config.num_kv_heads} key/value heads": is_grouped
        and config.num_attention_heads % config.num_kv_heads != 0,
        "attention before the MLP, not beside it": not config.parallel_attn,
        # transformers can't run these either.
        f"{num_norms} norms in a block": num_norms not in ((None, 1, 2) if is_grouped else (None, 1)),
        "ALiBi (Falcon-RW's layout)": config.alibi,
        "biases": config.bias,
        "dropout on the residual stream": config.hidden_dropout > 0,
        f"activation {config.activation}": config.activation != "gelu",
        f"rotary type {config.rope_parameters['rope_type']}": config.rope_parameters["rope_type"] != "default",
    }
    unknown = [name for name, found in layout.items() if found]
    if unknown:
        return f"it supports the layouts of Falcon-7B, 40B and 11B, and this model has {', '.join(unknown)}"
    return ""


def _why_not_frozen(module: nn.Module) -> str:
    if not isinstance(module, nn.Linear):
        return f"its linear layers are of type {type(module).__name__}"
    if module.weight.requires_grad:
        return "the base is not frozen"
    return "" if is_nf4(module) or module.weight.dtype.is_floating_point else "4-bit weights are not NF4"
