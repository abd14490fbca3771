"""Does the plan for serving compute what an engine allocates?"""

from pathlib import Path

import pytest
import torch

from engines import engine_of, mini_encoder
from falconer import runtime
from falconer.bench.train import SHAPES
from falconer.config import load
from falconer.model.random_falcon import untrained_falcon
from falconer.serve_plan import BYTES_EACH, Fit, cells, fit, plan_serving, token_bytes
from falconer.train.cost import NF4_BYTES, measure_shape
from tiny import save_tiny_model

GIB = 2**30


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "hub_is_reachable", lambda timeout_s=3.0: False)


def fits_of(slots: int = 64, adapters: int = 1, **settings: str) -> dict[tuple[float, str], Fit]:
    changes = [f"{name.replace('__', '.')}={value}" for name, value in settings.items()]
    plan = plan_serving(load("falcon-7b", changes), slots=slots, adapters=adapters)
    assert plan.token_bytes == 8192
    return {(one.card_gib, one.quantization): one for one in plan.fits}


def test_the_7bs_sizes_are_those_that_were_measured() -> None:
    """12.3 GiB dequantised: so says benchmarks/results/generate-h100.json."""
    fits = fits_of()
    assert fits[80, "nf4"].dequantised_gib == pytest.approx(12.3, abs=0.05)
    assert fits[80, "none"].weights_gib == pytest.approx(6_921_720_704 * 2 / GIB, rel=0.01)
    assert fits[24, "nf4"].dequantised_gib == 0 and not fits[12, "none"].slots
    # A quarter of what is free, in conversations of 512 tokens.
    small = fits[8, "nf4"]
    assert small.most_slots == small.conversations == int(0.25 * (8 - 0.8 - small.weights_gib) * GIB / (512 * 8192))
    assert small.needed_gib == pytest.approx(0.8 + small.weights_gib + small.conversations * 512 * 8192 / GIB)


def test_more_slots_more_context_and_more_adapters_take_more() -> None:
    fits = fits_of(slots=1000, adapters=8, data__max_tokens="2048")
    few = fits[8, "nf4"]
    assert few.slots == few.most_slots < 60 and fits[80, "nf4"].slots == 1000
    assert few.weights_gib - fits_of()[8, "nf4"].weights_gib == pytest.approx(7 * 4_718_592 * 6 / GIB)


def test_an_engine_allocates_what_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = SHAPES["tiny"] | {"vocab_size": 10240}
    model = untrained_falcon(shape, torch.device("cpu"), torch.float32, nf4=False)
    measured = measure_shape(model.config, load("falcon-7b").lora)
    free_gib = 0.006
    monkeypatch.setattr(runtime, "free_gib", lambda device: free_gib)
    weights_gib = (measured.linear + measured.embedding + measured.other) * BYTES_EACH / GIB
    # The model is in fp32, so that a token of its cache takes twice as much.
    conversation = 2 * 100 * token_bytes(model.config)
    planned = fit(measured, 0.8 + weights_gib + free_gib, "none", conversation, slots=6, adapters_gib=0.0)
    with engine_of(model, mini_encoder(100)) as engine:
        pool = engine._kept.running((), 6, "fast")
        cache = pool.slots.cache_LPG2H
        assert planned.slots == pool.num_slots == 6 and 6 < planned.conversations < 24
        # After the conversations: a token for each slot without a reply, and one for what recorded passes leave over.
        assert cache.shape[1] == planned.conversations * 100 + pool.num_slots + 1
        assert cache[:, :1].numel() * cache.element_size() == conversation / 100


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "falcon"])
def test_a_token_takes_what_transformers_caches(architecture: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(save_tiny_model(tmp_path / architecture, architecture))
    cache = model(input_ids=torch.ones(1, 1, dtype=torch.int64), use_cache=True).past_key_values
    size = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert token_bytes(model.config) == BYTES_EACH * size


def test_a_card_that_is_too_small_is_said_to_be() -> None:
    shape = measure_shape(untrained_meta(), load("falcon-7b").lora)
    (row,) = cells([fit(shape, 3, "nf4", 512 * 8192, slots=64, adapters_gib=0.0)])
    assert row[:4] == ("3 GiB", "NF4", "3.7", "does not fit")
    assert shape.linear * NF4_BYTES / GIB < 3.8


def untrained_meta():
    from transformers import FalconConfig

    return FalconConfig(**SHAPES["falcon-7b"])
