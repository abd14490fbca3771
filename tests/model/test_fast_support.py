"""Which models the fast path runs: every adapter that is loaded counts, not the active one alone."""

import torch
from peft import LoraConfig

from falcon_tiny import tiny_falcon
from falconer.model.fast_support import why_not_fast


def test_plain_adapters_in_the_precision_of_the_weights_are_supported():
    model = tiny_falcon(torch.float32).eval()
    model.add_adapter("other", LoraConfig(r=3, target_modules=["dense"]))
    assert why_not_fast(model, None) == why_not_fast(model, torch.float32) == ""
    assert why_not_fast(model, torch.bfloat16) == "it computes in the weights' float32, not in bfloat16"


def test_an_adapter_that_is_not_active_counts_too():
    model = tiny_falcon(torch.float32).eval()
    model.add_adapter("odd", LoraConfig(r=3, target_modules=["dense"], use_dora=True))
    assert "h.0.self_attention.dense has more than a plain LoRA" in why_not_fast(model, None)


def test_adapters_that_are_active_together_stay_so():
    model = tiny_falcon(torch.float32).eval()
    model.add_adapter("other", LoraConfig(r=3, target_modules=["dense"]))
    model.base_model.set_adapter(["default", "other"])
    assert why_not_fast(model, None) == ""
    assert model.active_adapters == ["default", "other"]
