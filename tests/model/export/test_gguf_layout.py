"""Where llama.cpp wants weights, and which models it would compute otherwise."""

import math

import pytest
import torch
from transformers import AutoConfig, FalconConfig

from falconer.errors import FalconerError
from falconer.model.export.gguf_layout import ARCHITECTURES, Layout
from falconer.model.random_falcon import FALCON_11B, FALCON_40B

SIZES = {"vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}


def layout(kind, *, is_tied=True, **settings):
    return Layout(AutoConfig.for_model(kind, **(SIZES | settings)), is_tied=is_tied)


def test_falcon_40b_has_all_queries_then_all_keys_then_all_values():
    """Two groups of two queries, a key and a value, each head four rows."""
    made = layout("falcon", new_decoder_architecture=True, num_kv_heads=2)
    weight = torch.arange(32).unsqueeze(1).float()
    heads = made.place("transformer.h.1.self_attention.query_key_value.weight").put(weight).view(8, 4)[:, 0] / 4
    assert heads.tolist() == [0, 1, 4, 5, 2, 6, 3, 7]


def test_falcon_7b_has_that_order_already():
    rows = layout("falcon").place("transformer.h.0.self_attention.query_key_value.weight").rows
    assert rows.tolist() == list(range(24))


def test_llama_turns_neighbours():
    placed = layout("llama", num_key_value_heads=2).place("model.layers.0.self_attn.k_proj.weight")
    assert placed.name == "blk.0.attn_k.weight" and placed.rows.tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert layout("qwen2").place("model.layers.0.self_attn.k_proj.weight").rows is None
    assert layout("llama").place("model.layers.0.self_attn.v_proj.weight").rows is None


def test_neox_has_all_queries_first():
    rows = layout("gpt_neox").place("gpt_neox.layers.0.attention.query_key_value.bias").rows.view(12, 4)[:, 0] // 4
    assert rows.tolist() == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]


def test_gemma_adds_one_to_its_norms_and_gpt_2_is_turned():
    ones = layout("gemma", head_dim=4).place("model.layers.0.input_layernorm.weight").put(torch.zeros(3))
    assert ones.tolist() == [1, 1, 1]
    gpt2 = layout("gpt2").place("transformer.h.0.mlp.c_fc.weight")
    assert gpt2.name == "blk.0.ffn_up.weight" and gpt2.put(torch.zeros(2, 5)).shape == (5, 2)


def test_falcon_7bs_settings():
    config = AutoConfig.for_model("falcon", multi_query=True, bias=False)
    assert Layout(config, is_tied=True).settings() == {
        "falcon.context_length": 2048, "falcon.embedding_length": 4544, "falcon.block_count": 32,
        "falcon.feed_forward_length": 18176, "falcon.attention.head_count": 71, "falcon.attention.head_count_kv": 1,
        "falcon.attention.layer_norm_epsilon": 1e-5, "falcon.vocab_size": 65024, "falcon.rope.freq_base": 10000.0,
        "falcon.rope.dimension_count": 64, "falcon.attention.key_length": 64, "falcon.attention.value_length": 64,
        "falcon.tensor_data_layout": "jploski",
    }  # fmt: skip


def test_falcon_40b_has_eight_key_heads_and_two_norms():
    made = Layout(FalconConfig(**FALCON_40B), is_tied=True)
    found = made.settings()
    assert (found["falcon.attention.head_count"], found["falcon.attention.head_count_kv"]) == (128, 8)
    assert (found["falcon.feed_forward_length"], found["falcon.block_count"]) == (32768, 60)
    # In llama.cpp the MLP reads attn_norm's output, and attention that of attn_norm_2 where there is one.
    names = [made.place(f"transformer.h.7.{norm}.weight").name for norm in ("ln_mlp", "ln_attn")]
    assert names == ["blk.7.attn_norm.weight", "blk.7.attn_norm_2.weight"] and not made.writes_head


def test_falcon_11b_has_one_norm_a_head_and_angles_of_its_own():
    made = Layout(FalconConfig(**FALCON_11B), is_tied=False)
    found = made.settings()
    assert (found["falcon.rope.freq_base"], found["falcon.rope.dimension_count"]) == (500042.0, 128)
    assert (found["falcon.context_length"], found["falcon.attention.head_count_kv"]) == (8192, 8)
    assert made.place("transformer.h.59.input_layernorm.bias").name == "blk.59.attn_norm.bias"
    assert made.writes_head and made.place("lm_head.weight").name == "output.weight"


def test_llama_3_divides_its_low_frequencies():
    """The rule as Llama 3.1's authors give it, worked out here a second time."""
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
    made = layout("llama", hidden_size=512, rope_parameters=rope)
    expected = []
    for place in range(0, 128, 2):
        wave = 2 * math.pi * 500000.0 ** (place / 128)
        share = (8192 / wave - 1.0) / (4.0 - 1.0)
        expected.append(1.0 if share >= 1 else 8.0 if share <= 0 else 1 / ((1 - share) / 8.0 + share))
    torch.testing.assert_close(made.rotary_factors(), torch.tensor(expected), rtol=1e-5, atol=0)
    assert layout("llama").rotary_factors() is None


REFUSED = {
    "another type": ("bloom", {}, "of type bloom can't be written as GGUF here"),
    "alibi": ("falcon", {"alibi": True}, "neither ALiBi nor biases"),
    "biases": ("falcon", {"bias": True}, "neither ALiBi nor biases"),
    "one after the other": ("falcon", {"parallel_attn": False}, "attention and MLP in parallel"),
    "activation": ("falcon", {"activation": "relu"}, "activation is relu, llama.cpp's gelu"),
    "window": ("mistral", {"sliding_window": 64}, "slides over a window"),
    "window in some layers": (
        "qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "slides over a window",
    ),
    "yarn": ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "scaled by 'yarn'"),
    "attention's scale": ("gemma2", {"head_dim": 4, "query_pre_attn_scalar": 7}, "scaled by 7"),
    "layer's scale": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scaled by the layer's number"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_would_compute_otherwise_is_refused(case):
    kind, settings, reason = REFUSED[case]
    with pytest.raises(FalconerError, match=reason):
        layout(kind, **settings)


def test_gemmas_head_is_its_embedding():
    with pytest.raises(FalconerError, match="head is not its embedding"):
        layout("gemma", is_tied=False, head_dim=4)


def test_a_tensor_that_llama_cpp_has_not():
    with pytest.raises(FalconerError, match=r"falcon has no tensor for transformer\.h\.0\.adapter\.weight"):
        layout("falcon").place("transformer.h.0.adapter.weight")
    assert layout("falcon").place("transformer.h.0.self_attention.rotary_emb.inv_freq") is None


def test_every_architecture_has_a_place_for_every_tensor():
    from transformers import AutoModelForCausalLM

    for kind in ARCHITECTURES:
        settings = {"head_dim": 4, "query_pre_attn_scalar": 4, "sliding_window": None if kind == "mistral" else 8}
        config = AutoConfig.for_model(
            kind, **(SIZES | (settings if kind not in ("falcon", "gpt2", "gpt_neox") else {}))
        )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        made = Layout(config, is_tied=kind in ("gemma", "gemma2"))
        head = () if kind in ("gemma", "gemma2") else ("lm_head.weight",)
        names = [made.place(name).name for name in model.state_dict() if name in head or name != "lm_head.weight"]
        assert len(set(names)) == len(names) > 10
