"""What training costs on the generic path: against measurements, and against the real model's own counts."""

import pytest
import torch
from transformers import FalconConfig, Gemma3TextConfig

from falconer.config import load
from falconer.model.load import load_model
from falconer.model.lora import add_adapter, trainable_tensors
from falconer.model.random_falcon import FALCON_7B, FALCON_11B, FALCON_40B
from falconer.train.cost import (
    NF4_BYTES,
    flop_per_token,
    measure_shape,
    own_layers_memory,
    tokens_per_s,
    training_memory,
)
from falconer.train.forecast import GIB, H200_FLOPS
from tiny import ARCHITECTURES, save_tiny_model

# rows x tokens, logits, checkpointing, peak GiB of tensors, tokens/s: Falcon-7B in NF4, LoRA r=16 on query_key_value,
# one H200. "recipe" is PEFT's own preparation, which holds the embedding in fp32. Ours: benchmarks/results, where a
# dialogue has some 300 tokens, a third of them targets.
MEASURED = [
    ("ours", 2048 // 320, 320, 700, True, 5.83, 5490),
    ("ours", 8192 // 320, 320, 2800, True, 11.69, 7264),
    ("ours", 2048 // 320, 320, 700, False, 19.64, 7997),
    ("ours", 4096 // 320, 320, 1400, False, 35.0, 9507),
    ("PEFT", 8, 512, 4096, False, 44.3, 8126),
    ("PEFT", 32, 256, 8192, False, 66.8, 10401),
    ("recipe", 8, 512, 4096, True, 10.8, 5477),
    ("recipe", 4, 512, 2048, True, 7.9, 4906),
]


@pytest.fixture(scope="module")
def falcon_7b():
    return measure_shape(FalconConfig(**FALCON_7B), load("falcon-7b").lora)


def test_the_7b_shape(falcon_7b):
    assert falcon_7b.linear + falcon_7b.embedding + falcon_7b.other == 6_921_720_704
    assert falcon_7b.embedding == 65024 * 4544
    assert falcon_7b.adapter == 4_718_592
    all_linear = measure_shape(FalconConfig(**FALCON_7B), load("falcon-7b-all-linear").lora)
    assert all_linear.adapter == 32_636_928


# Parameters, those of embedding and head (one weight or two), GiB of the whole in NF4 with the rest in bf16, and owner.
OTHERS = {
    "falcon-40b": (FALCON_40B, 41_303_293_952, 65024 * 8192, 20.58, "Falcon-40B"),
    "falcon-11b": (FALCON_11B, 11_102_822_400, 2 * 65024 * 4096, 6.07, "Falcon-11B"),
}


@pytest.mark.parametrize(("sizes", "parameters", "embedding", "gib", "owner"), OTHERS.values(), ids=OTHERS)
def test_the_shapes_of_other_falcons(sizes, parameters, embedding, gib, owner):
    shape = measure_shape(FalconConfig(**sizes), load("falcon-7b").lora)
    assert shape.linear + shape.embedding + shape.other == parameters and shape.embedding == embedding
    assert (shape.linear * NF4_BYTES + 2 * (shape.embedding + shape.other)) / GIB == pytest.approx(gib, abs=0.01)
    qkv = sizes["hidden_size"] // sizes["num_attention_heads"] * (sizes["num_attention_heads"] + 2 * 8)
    assert shape.adapter == 16 * 60 * (sizes["hidden_size"] + qkv)
    assert shape.why_generic == "" and shape.why_fast == f"the model has {owner}'s layout"


@pytest.mark.parametrize(("who", "rows", "tokens", "logits", "checkpointing", "gib", "tok_per_s"), MEASURED)
def test_within_a_quarter_of_what_was_measured(falcon_7b, who, rows, tokens, logits, checkpointing, gib, tok_per_s):
    options = {} if who == "ours" else {"chunk": logits}
    memory = training_memory(
        falcon_7b, tokens=rows * tokens, longest=tokens, num_logits=logits, checkpointing=checkpointing,
        quantized=True, bytes_each=2, **options,
    )  # fmt: skip
    peak = (memory.total + (2 * falcon_7b.embedding if who == "recipe" else 0)) / GIB
    assert peak == pytest.approx(gib, rel=0.25)
    flop = flop_per_token(falcon_7b, checkpointing=checkpointing, target_share=logits / (rows * tokens))
    speed = tokens_per_s(H200_FLOPS, flop, micro_tokens=rows * tokens, on_gpu=True, quantized=True)
    assert speed == pytest.approx(tok_per_s, rel=0.25)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("targets", ["auto", "all-linear"])
def test_the_shape_counts_what_the_loaded_model_has(tmp_path, architecture, targets):
    config = load(overrides=[f"lora.targets={targets}"])
    loaded = load_model(str(save_tiny_model(tmp_path, architecture)), quantization="nf4", dtype="fp32", device="cpu")
    shape = measure_shape(loaded.model.config, config.lora)
    packed = [p for p in loaded.model.parameters() if p.dtype == torch.uint8]
    assert shape.linear == sum(2 * p.numel() for p in packed)
    whole = [p.numel() for p in loaded.model.parameters() if p.dtype != torch.uint8]
    assert shape.embedding + shape.other == sum(whole)
    adapted = add_adapter(loaded.model, r=16, alpha=32, dropout=0.05, targets=targets, seed=0)
    assert shape.adapter == sum(p.numel() for p in trainable_tensors(adapted).values())


def test_nf4_bytes_are_those_of_bitsandbytes():
    from falconer.model.bnb import bnb

    weight = bnb.nn.Params4bit(torch.randn(1024, 1024), requires_grad=False, quant_type="nf4").to("cpu")
    state = weight.quant_state
    held = weight.numel() + state.absmax.numel() * state.absmax.itemsize
    held += state.state2.absmax.numel() * state.state2.absmax.itemsize
    assert state.nested
    assert held == pytest.approx(NF4_BYTES * 1024**2, rel=1e-3)


def test_less_is_needed_with_checkpointing_and_smaller_micro_batches(falcon_7b):
    def total(tokens, checkpointing):
        return training_memory(
            falcon_7b, tokens=tokens, longest=256, num_logits=tokens // 3, checkpointing=checkpointing,
            quantized=True, bytes_each=2,
        ).total  # fmt: skip

    assert total(2048, True) < total(4096, True) < total(2048, False) < total(4096, False)


@pytest.fixture(scope="module")
def gemma():
    """Gemma-3-270M with the preset's adapter."""
    config = Gemma3TextConfig(
        vocab_size=262144, hidden_size=640, intermediate_size=2048, num_hidden_layers=18, num_attention_heads=4,
        num_key_value_heads=1, head_dim=256,
    )  # fmt: skip
    return measure_shape(config, load("any-causal-lm").lora)


def test_a_vocabulary_of_262144_costs_a_chunk_of_logits(gemma):
    """The stock layers took 7.33 GiB at 4,084 tokens, whose logits were stored; half of it is allowed."""
    assert gemma.embedding == 262144 * 640 and gemma.norms == 18 * (4 * 640 + 5 * 256) + 640

    def memory(tokens, **options):
        return own_layers_memory(
            gemma, tokens=tokens, longest=256, num_logits=round(0.4 * tokens), quantized=False, bytes_each=2,
            **{"checkpointing": False} | options,
        )  # fmt: skip

    whole = memory(4084)
    assert whole.total / GIB < 7.33 / 2
    # 256 targets at a time, however many there are.
    assert memory(4084).passing - memory(2042).passing < 3 * 0.41 * 2042 * 640 * 2
    assert memory(4084, checkpointing=True).total < memory(2042).total < whole.total
    # Per token: what the modules store, by their widths; the rest is the LoRAs' inner activations.
    widths = 18 * (5 * 640 + 2 * (4 + 1) * 256 + 4 * 256 + 256 + 2 * 2048)
    assert whole.kept / 4084 == pytest.approx(2 * widths, rel=0.08)


def test_the_stock_layers_of_a_large_vocabulary_need_more(gemma):
    stock = training_memory(
        gemma, tokens=4084, longest=256, num_logits=1400, checkpointing=False, quantized=False, bytes_each=2, chunk=1024
    )  # fmt: skip
    assert stock.passing > 262144 * 4 * 1400
    assert training_memory(
        gemma, tokens=4084, longest=256, num_logits=1400, checkpointing=False, quantized=False, bytes_each=2
    ).passing < stock.passing / 4  # fmt: skip
