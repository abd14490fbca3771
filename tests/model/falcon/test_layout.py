"""Which layouts the fast path knows, where a model has its parts, and what the fast path can't run."""

import pytest
import torch
from transformers import FalconConfig, FalconForCausalLM

from falcon_tiny import tiny_falcon
from falconer.kernels.formats import Heads
from falconer.model.falcon.layout import (
    LINEARS,
    ModelLayout,
    backbone_of,
    layout_of,
    linears_of,
    why_generic,
    why_other_adapter,
    why_other_layout,
)
from falconer.model.lora import without_adapter
from falconer.model.random_falcon import FALCON_7B, FALCON_11B, FALCON_40B
from tiny import config_of


@pytest.mark.parametrize("targets", ["query_key_value", "all-linear"])
def test_linear_layers_are_found_under_an_adapter_and_without(targets):
    model = tiny_falcon(torch.float32, targets=targets)
    for layer in backbone_of(model).h:
        found = linears_of(layer)
        assert tuple(found) == LINEARS
        adapted = {name for name, module in found.items() if hasattr(module, "lora_A")}
        assert adapted == (set(LINEARS) if targets == "all-linear" else {"query_key_value"})
    base = model.unload()
    assert not any(hasattr(m, "lora_A") for layer in backbone_of(base).h for m in linears_of(layer).values())


def test_the_backbone_is_the_same_one_under_peft():
    model = tiny_falcon(torch.float32)
    assert backbone_of(model) is backbone_of(model.get_base_model()) is model.base_model.model.transformer
    with without_adapter(model):
        assert why_generic(model) == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"model_type": "llama"}, "it knows Falcon, not llama"),
        (
            {"alibi": True, "bias": True},
            "it supports the layouts of Falcon-7B, 40B and 11B, and this model has ALiBi (Falcon-RW's layout), biases",
        ),
        ({"new_decoder_architecture": True, "num_kv_heads": 2}, ""),
        ({"new_decoder_architecture": True, "num_kv_heads": 1, "num_ln_in_parallel_attn": 1}, ""),
        (
            {"new_decoder_architecture": True, "num_attention_heads": 6, "num_kv_heads": 4},
            "6 query heads for 4 key/value heads",
        ),
        ({"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 3}, "3 norms in a block"),
        ({"multi_query": False}, "as many key/value heads as query heads"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "rotary type linear"),
    ],
)
def test_a_layout_is_told_by_the_configuration_alone(changes, reason):
    config = config_of("falcon", 500, 11)
    for name, value in changes.items():
        setattr(config, name, value)
    found = why_other_layout(config)
    assert reason in found and bool(found) == bool(reason)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (FALCON_7B, ModelLayout("Falcon-7B", Heads(1, 71, 64), ("input_layernorm",))),
        (FALCON_40B, ModelLayout("Falcon-40B", Heads(8, 128, 64), ("ln_attn", "ln_mlp"))),
        (FALCON_11B, ModelLayout("Falcon-11B", Heads(8, 32, 128), ("input_layernorm",))),
    ],
)
def test_the_layouts_of_the_three_falcons(shape, expected):
    config = FalconConfig(**shape)
    assert why_other_layout(config) == "" and layout_of(config) == expected
    with torch.device("meta"):
        block = FalconForCausalLM(config).transformer.h[0]
    width = linears_of(block)["query_key_value"].out_features
    assert width == expected.heads.width == expected.heads.total * expected.heads.size
    assert all(isinstance(getattr(block, name), torch.nn.LayerNorm) for name in expected.norms)


def test_what_else_is_trained_is_named_with_its_place():
    model = tiny_falcon(torch.float32)
    assert why_other_adapter(model) == ""
    backbone_of(model).ln_f.weight.requires_grad_(True)
    assert why_other_adapter(model) == (
        "transformer.ln_f.weight is trained, and it only supports LoRA on the blocks' linear layers"
    )
    backbone_of(model).h[1].mlp.dense_4h_to_h.weight.requires_grad_(True)
    assert why_other_adapter(model) == "the base is not frozen (block 1, dense_4h_to_h)"
