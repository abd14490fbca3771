"""The layers that a LoRA adapts are those that were named, and a wrong name is answered with the right ones."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3Config

from falconer.errors import FalconerError
from falconer.model.load import load_model
from falconer.model.lora import add_adapter, trainable_tensors
from falconer.train.step import without_gradient

IDS = torch.arange(12).unsqueeze(0)


def adapted(folder, targets):
    base = load_model(str(folder), quantization="none", dtype="fp32", device="cpu")
    return add_adapter(base.model, r=4, alpha=8, dropout=0.05, targets=targets, seed=17)


@pytest.mark.parametrize(
    ("targets", "num_tensors"), [("query_key_value", 4), ("all-linear", 16), ("auto", 4), ("dense, query_key_value", 8)]
)
def test_targets(tiny_falcon, targets, num_tensors):
    assert len(trainable_tensors(adapted(tiny_falcon, targets))) == num_tensors


def test_a_word_for_all_layers_stands_alone(tiny_falcon):
    with pytest.raises(FalconerError, match="combines 'all-linear' with names of layers") as caught:
        adapted(tiny_falcon, "lm_head, all-linear")
    assert "Allowed: dense, dense_4h_to_h" in caught.value.hint
    assert len(trainable_tensors(adapted(tiny_falcon, " all-linear"))) == 16


def test_an_unknown_target_is_named_with_what_there_is(tiny_falcon):
    with pytest.raises(FalconerError, match=r"'q_proj'.*dense, dense_4h_to_h, dense_h_to_4h, .*query_key_value"):
        adapted(tiny_falcon, "q_proj")


def test_layers_that_read_pictures_are_left_alone():
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64, "num_attention_heads": 2}
    text = sizes | {"vocab_size": 300, "num_key_value_heads": 1, "head_dim": 16}
    model = AutoModelForCausalLM.from_config(Gemma3Config(text_config=text, vision_config=sizes)).requires_grad_(False)
    tuned = add_adapter(model, r=2, alpha=4, dropout=0.0, targets="all-linear", seed=0)
    names = list(trainable_tensors(tuned))
    assert len(names) == 2 * 7 and all(".language_model." in name for name in names)
    tuned(input_ids=IDS).logits.sum().backward()
    assert without_gradient(trainable_tensors(tuned)) == []


def test_a_layer_by_the_end_of_its_path(tiny_falcon):
    model = adapted(tiny_falcon, "h.1.mlp.dense_4h_to_h,lm_head")
    modules = {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in trainable_tensors(model)}
    assert modules == {"transformer.h.1.mlp.dense_4h_to_h", "lm_head"}
