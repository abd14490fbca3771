"""The adapter: the seed fixes it, what is saved is what was trained, and anybody's program can load it."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma3Config

from falconer.data.prompt import PromptFormat
from falconer.errors import FalconerError
from falconer.model.load import load_model
from falconer.model.lora import (
    WEIGHTS,
    adapter_sha256,
    add_adapter,
    load_adapter,
    save_adapter,
    trainable_tensors,
    without_adapter,
)
from falconer.train.step import without_gradient
from tiny import save_tiny_model

IDS = torch.arange(12).unsqueeze(0)


def fresh(folder, seed=17, targets="query_key_value", quantization="none"):
    base = load_model(str(folder), quantization=quantization, dtype="fp32", device="cpu")
    return base, add_adapter(base.model, r=4, alpha=8, dropout=0.05, targets=targets, seed=seed)


def disturb(model):
    with torch.no_grad():
        for parameter in trainable_tensors(model).values():
            parameter.add_(torch.randn_like(parameter) * 0.05)


def test_the_seed_alone_fixes_a_fresh_adapter(tiny_falcon):
    hashes = [adapter_sha256(fresh(tiny_falcon, seed)[1]) for seed in (17, 17, 18)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_7b_shape_has_the_published_number_of_parameters():
    from transformers import FalconConfig, FalconForCausalLM

    config = FalconConfig(
        vocab_size=65024, hidden_size=4544, num_hidden_layers=32, num_attention_heads=71,
        multi_query=True, parallel_attn=True, new_decoder_architecture=False, bias=False, alibi=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = FalconForCausalLM(config)
        adapted = add_adapter(
            model.requires_grad_(False), r=16, alpha=32, dropout=0.05, targets="query_key_value", seed=0
        )
    assert sum(parameter.numel() for parameter in trainable_tensors(adapted).values()) == 4_718_592


@pytest.mark.parametrize(
    ("targets", "num_tensors"), [("query_key_value", 4), ("all-linear", 16), ("auto", 4), ("dense, query_key_value", 8)]
)
def test_targets(tiny_falcon, targets, num_tensors):
    assert len(trainable_tensors(fresh(tiny_falcon, targets=targets)[1])) == num_tensors


def test_a_word_for_all_layers_stands_alone(tiny_falcon):
    with pytest.raises(FalconerError, match="combines 'all-linear' with names of layers") as caught:
        fresh(tiny_falcon, targets="lm_head, all-linear")
    assert "Allowed: dense, dense_4h_to_h" in caught.value.hint
    assert len(trainable_tensors(fresh(tiny_falcon, targets=" all-linear")[1])) == 16


def test_an_unknown_target_is_named_with_what_there_is(tiny_falcon):
    with pytest.raises(FalconerError, match=r"'q_proj'.*dense, dense_4h_to_h, dense_h_to_4h, .*query_key_value"):
        fresh(tiny_falcon, targets="q_proj")


def test_saved_and_loaded_the_logits_are_the_same(tiny_falcon, tmp_path):
    base, model = fresh(tiny_falcon)
    disturb(model)
    model.eval()
    expected = model(input_ids=IDS).logits
    save_adapter(model, base.tokenizer, tmp_path / "adapter", "raw", PromptFormat())
    again = load_adapter(
        load_model(str(tiny_falcon), quantization="none", dtype="fp32", device="cpu").model, tmp_path / "adapter"
    )
    assert torch.equal(again(input_ids=IDS).logits, expected)


def test_a_program_without_falconer_loads_the_adapter(tiny_falcon, tmp_path):
    base, model = fresh(tiny_falcon, targets="all-linear")
    disturb(model)
    model.eval()
    save_adapter(model, base.tokenizer, tmp_path / "adapter", "raw", PromptFormat())
    save_file({"logits": model(input_ids=IDS).logits.detach().contiguous()}, tmp_path / "expected.safetensors")
    program = f"""
import sys, torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
base = AutoModelForCausalLM.from_pretrained({str(tiny_falcon)!r}, dtype=torch.float32)
model = PeftModel.from_pretrained(base, {str(tmp_path / "adapter")!r}).eval()
tokenizer = AutoTokenizer.from_pretrained({str(tmp_path / "adapter")!r})
text = tokenizer.apply_chat_template([{{"role": "user", "content": "hi"}}], tokenize=False, add_generation_prompt=True)
assert text == "User: hi\\nAssistant:", text
expected = load_file({str(tmp_path / "expected.safetensors")!r})["logits"]
assert torch.equal(model(input_ids=torch.arange(12).unsqueeze(0)).logits, expected)
assert not any(name.startswith("falconer") for name in sys.modules)
print("same logits")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert result.stdout.strip() == "same logits", result.stderr


def test_without_adapter_is_the_base(tiny_falcon):
    base, model = fresh(tiny_falcon)
    disturb(model)
    model.eval()
    plain = load_model(str(tiny_falcon), quantization="none", dtype="fp32", device="cpu").model
    with without_adapter(model):
        assert torch.equal(model(input_ids=IDS).logits, plain(input_ids=IDS).logits)
    assert not torch.equal(model(input_ids=IDS).logits, plain(input_ids=IDS).logits)


def test_no_pickle_is_written(tiny_falcon, tmp_path):
    base, model = fresh(tiny_falcon)
    save_adapter(model, base.tokenizer, tmp_path / "adapter", "raw", PromptFormat())
    assert {path.suffix for path in (tmp_path / "adapter").iterdir()} <= {".json", ".safetensors", ".md", ".jinja"}


def test_a_damaged_adapter_is_explained(tiny_falcon, tmp_path):
    base, model = fresh(tiny_falcon)
    save_adapter(model, base.tokenizer, tmp_path / "adapter", "raw", PromptFormat())
    weights = tmp_path / "adapter" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(FalconerError, match="is damaged"):
        load_adapter(load_model(str(tiny_falcon), quantization="none", device="cpu").model, tmp_path / "adapter")


def test_an_adapter_of_another_base_is_explained(tiny_falcon, tmp_path):
    base, model = fresh(tiny_falcon)
    save_adapter(model, base.tokenizer, tmp_path / "adapter", "raw", PromptFormat())
    other = load_model(str(save_tiny_model(tmp_path / "llama", "llama")), quantization="none", device="cpu")
    with pytest.raises(FalconerError, match="does not fit this base model"):
        load_adapter(other.model, tmp_path / "adapter")


def test_a_folder_without_adapter_is_explained(tiny_falcon, tmp_path):
    with pytest.raises(FalconerError, match="contains no adapter"):
        load_adapter(load_model(str(tiny_falcon), quantization="none", device="cpu").model, tmp_path)


def test_a_full_disk_leaves_the_adapter_before_whole(tiny_falcon, tmp_path, monkeypatch):
    base, model = fresh(tiny_falcon)
    save_adapter(model, base.tokenizer, tmp_path / "adapter", "raw", PromptFormat())
    before = load_file(tmp_path / "adapter" / WEIGHTS)
    disturb(model)

    def full(*_, **__):
        from safetensors import SafetensorError

        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(model, "save_pretrained", full)
    with pytest.raises(FalconerError, match="No space left on the disk"):
        save_adapter(model, base.tokenizer, tmp_path / "adapter", "raw", PromptFormat())
    after = load_file(tmp_path / "adapter" / WEIGHTS)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_layers_that_read_pictures_are_left_alone():
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64, "num_attention_heads": 2}
    text = sizes | {"vocab_size": 300, "num_key_value_heads": 1, "head_dim": 16}
    model = AutoModelForCausalLM.from_config(Gemma3Config(text_config=text, vision_config=sizes)).requires_grad_(False)
    adapted = add_adapter(model, r=2, alpha=4, dropout=0.0, targets="all-linear", seed=0)
    names = list(trainable_tensors(adapted))
    assert len(names) == 2 * 7 and all(".language_model." in name for name in names)
    adapted(input_ids=IDS).logits.sum().backward()
    assert without_gradient(trainable_tensors(adapted)) == []


def test_a_layer_by_the_end_of_its_path(tiny_falcon):
    _, model = fresh(tiny_falcon, targets="h.1.mlp.dense_4h_to_h,lm_head")
    modules = {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in trainable_tensors(model)}
    assert modules == {"transformer.h.1.mlp.dense_4h_to_h", "lm_head"}


@pytest.mark.parametrize("architecture", ["falcon", "gpt2"])
def test_a_head_and_an_embedding_are_saved_and_loaded(tmp_path, architecture):
    folder = save_tiny_model(tmp_path / "model", architecture)
    names = {"falcon": "query_key_value,lm_head,word_embeddings", "gpt2": "c_attn,lm_head,wte"}[architecture]
    base, model = fresh(folder, targets=names)
    disturb(model)
    model.eval()
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
        save_adapter(model, base.tokenizer, tmp_path / "adapter", "raw", PromptFormat())
        again = load_model(str(folder), quantization="none", device="cpu", dtype="fp32").model
        plain = load_adapter(again, tmp_path / "adapter")
        torch.testing.assert_close(plain(input_ids=IDS).logits, expected)
