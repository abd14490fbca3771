"""The adapter: the seed fixes it, what is saved is what was trained, and anybody's program can load it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoHaConfig, get_peft_model
from safetensors.torch import load_file, save_file

from falconer.data.prompt import PromptFormat
from falconer.errors import FalconerError
from falconer.model.load import load_model
from falconer.model.lora import (
    WEIGHTS,
    adapter_sha256,
    add_adapter,
    load_adapter,
    load_adapters,
    save_adapter,
    trainable_tensors,
    without_adapter,
    write_adapter,
)
from falconer.run.manifest import MANIFEST
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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        # PEFT would import the module.
        (
            {"megatron_config": {"a": 1}, "megatron_core": "antigravity"},
            "code that a file names is never run",
        ),
        ({"alora_invocation_tokens": "x"}, "is an activated LoRA"),
        ({"layer_replication": [[0, 2]] * 1000}, "repeats layers of its base model"),
        ({"r": 10**7}, "has a rank of 10000000, and no tensor of the adapter is so large"),
        ({"rank_pattern": {"query_key_value": 10**7}}, "has a rank of 10000000"),
        ({"trainable_token_indices": "b']"}, "is damaged: IndexError"),
        ({"lora_alpha": []}, "is damaged|does not fit"),
        ({"peft_type": "x" * 10**6}, "is damaged"),
    ],
)
def test_a_hostile_configuration_is_refused(tiny_falcon, tmp_path, changes, said):
    base, model = fresh(tiny_falcon)
    folder = tmp_path / "adapter"
    save_adapter(model, base.tokenizer, folder, "raw", PromptFormat())
    (folder / MANIFEST).unlink()
    config = json.loads((folder / "adapter_config.json").read_text()) | changes
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(FalconerError, match=said) as refused:
        load_adapter(load_model(str(tiny_falcon), quantization="none", device="cpu").model, folder)
    assert len(str(refused.value)) < 3000 and "antigravity" not in sys.modules


@pytest.mark.parametrize("kept", [0, 1])
def test_an_adapter_that_lacks_tensors_is_refused(tiny_falcon, tmp_path, kept):
    """PEFT would load it with initial values, and only warn: base and tuned model would be equal."""
    base, model = fresh(tiny_falcon)
    save_adapter(model, base.tokenizer, tmp_path / "adapter", "raw", PromptFormat())
    weights = tmp_path / "adapter" / WEIGHTS
    tensors = load_file(weights)
    save_file(dict(list(tensors.items())[:kept]), weights, metadata={"format": "pt"})
    plain = load_model(str(tiny_falcon), quantization="none", device="cpu").model
    with pytest.raises(FalconerError, match="is damaged: the hash of adapter_model.safetensors differs"):
        load_adapter(plain, tmp_path / "adapter")
    (tmp_path / "adapter" / "manifest.json").unlink()  # as other programs write it
    with pytest.raises(FalconerError, match=f"lacks {len(tensors) - kept} of {len(tensors)} tensors"):
        load_adapter(plain, tmp_path / "adapter")


def test_an_adapter_of_another_base_is_explained(tiny_falcon, tmp_path):
    base, model = fresh(tiny_falcon)
    save_adapter(model, base.tokenizer, tmp_path / "adapter", "raw", PromptFormat())
    other = load_model(str(save_tiny_model(tmp_path / "llama", "llama")), quantization="none", device="cpu")
    with pytest.raises(FalconerError, match="does not fit this base model"):
        load_adapter(other.model, tmp_path / "adapter")


def test_a_folder_without_adapter_is_explained(tiny_falcon, tmp_path):
    with pytest.raises(FalconerError, match="contains no adapter"):
        load_adapter(load_model(str(tiny_falcon), quantization="none", device="cpu").model, tmp_path)


def saved(tiny_falcon, folder, seed, **settings):
    """Save an adapter whose weights the seed determines, and return its logits."""
    base, model = fresh(tiny_falcon, seed, **settings)
    torch.manual_seed(seed)
    disturb(model)
    save_adapter(model, base.tokenizer, folder, "raw", PromptFormat())
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def plain_base(folder):
    return load_model(str(folder), quantization="none", dtype="fp32", device="cpu").model


def test_several_adapters_on_one_base_are_each_what_they_are_alone(tiny_falcon, tmp_path):
    names = ("ann", "ann2", "h-0", "Default_1")
    expected = {name: saved(tiny_falcon, tmp_path / name, seed) for seed, name in enumerate(names)}
    model = load_adapters(plain_base(tiny_falcon), {name: tmp_path / name for name in names}).eval()
    assert model.active_adapter == "ann"
    assert not trainable_tensors(model)
    with torch.no_grad():
        for name in names:
            model.set_adapter(name)
            torch.testing.assert_close(model(input_ids=IDS).logits, expected[name])
        with without_adapter(model):
            torch.testing.assert_close(model(input_ids=IDS).logits, plain_base(tiny_falcon)(input_ids=IDS).logits)
    assert len({round(float(logits.sum()), 3) for logits in expected.values()}) == len(names)


@pytest.mark.parametrize("name", ["", "a.b", "a b", "-a", "keys", "lora", "ü", "__base__"])
def test_a_name_that_an_adapter_can_not_have_is_refused_before_anything_is_loaded(name, tmp_path):
    with pytest.raises(FalconerError, match=f"can't have the name '{name}'"):
        load_adapters(None, {name: tmp_path})


def test_adapters_that_do_not_go_together_are_both_named(tiny_falcon, tmp_path):
    saved(tiny_falcon, tmp_path / "one", 1)
    (tmp_path / "other").mkdir()
    get_peft_model(
        plain_base(tiny_falcon), LoHaConfig(target_modules=["query_key_value"], task_type="CAUSAL_LM")
    ).save_pretrained(tmp_path / "other")
    with pytest.raises(FalconerError, match=r"'ann' \(.*one', LORA\) and 'bob' \(.*other', LOHA\) .*types"):
        load_adapters(plain_base(tiny_falcon), {"ann": tmp_path / "one", "bob": tmp_path / "other"})


def test_one_of_several_adapters_that_can_not_be_loaded_is_explained(tiny_falcon, tmp_path):
    saved(tiny_falcon, tmp_path / "one", 1)
    saved(save_tiny_model(tmp_path / "model", "llama"), tmp_path / "llama", 1, targets="q_proj")
    for folder, message in (("none", "contains no adapter"), ("llama", "llama' does not fit this base model")):
        with pytest.raises(FalconerError, match=message):
            load_adapters(plain_base(tiny_falcon), {"ann": tmp_path / "one", "bob": tmp_path / folder})
    changes_base = tmp_path / "one" / "adapter_config.json"
    changes_base.write_text(changes_base.read_text().replace('"bias": "none"', '"bias": "all"'))
    # As of another program, which writes none.
    (tmp_path / "one" / MANIFEST).unlink()
    with pytest.raises(FalconerError, match="also changes the biases"):
        load_adapters(plain_base(tiny_falcon), {"ann": tmp_path / "one"})


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


def test_an_adapter_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "adapter_config.json").write_text("{}")
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(b"")
    whole = Path.open

    def refuses(path, *arguments, **named):
        if path == weights:
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", refuses)
    with pytest.raises(FalconerError, match=f"'{weights}' can't be read: Permission denied. Give the user"):
        load_adapter(None, tmp_path)


def test_a_saved_adapter_has_no_path_of_this_machine(tmp_path):
    """Neither in its configuration nor in the page that PEFT writes beside it."""
    folder = save_tiny_model(tmp_path / "bases" / "my-falcon")
    _, model = fresh(folder)
    write_adapter(model, tmp_path)
    assert '"base_model_name_or_path": "my-falcon"' in (tmp_path / "adapter_config.json").read_text()
    written = [path for path in tmp_path.glob("*") if path.suffix in (".json", ".md")]
    assert len(written) == 2 and not [path for path in written if str(tmp_path) in path.read_text()]
