"""Where a model of Falcon-7B's layout has its parts, and what the fast path can't run."""

import pytest
import torch

from falcon_tiny import tiny_falcon
from falconer.model.falcon.layout import (
    LINEARS,
    backbone_of,
    linears_of,
    why_generic,
    why_other_adapter,
    why_other_layout,
)
from falconer.model.lora import without_adapter
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
            "it supports Falcon-7B's layout, and this model has ALiBi (Falcon-RW's layout), biases",
        ),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "rotary type linear"),
    ],
)
def test_a_layout_is_told_by_the_configuration_alone(changes, reason):
    config = config_of("falcon", 500, 11)
    for name, value in changes.items():
        setattr(config, name, value)
    found = why_other_layout(config)
    assert reason in found and bool(found) == bool(reason)


def test_what_else_is_trained_is_named_with_its_place():
    model = tiny_falcon(torch.float32)
    assert why_other_adapter(model) == ""
    backbone_of(model).ln_f.weight.requires_grad_(True)
    assert why_other_adapter(model) == (
        "transformer.ln_f.weight is trained, and it only supports LoRA on the blocks' linear layers"
    )
    backbone_of(model).h[1].mlp.dense_4h_to_h.weight.requires_grad_(True)
    assert why_other_adapter(model) == "the base is not frozen (block 1, dense_4h_to_h)"
