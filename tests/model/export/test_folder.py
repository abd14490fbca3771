"""config.json, generation_config.json, the tokenizer and the record say what other programs have to know."""

import json
import os

import pytest
from transformers import FalconConfig, FalconForCausalLM

from exported import save_adapter_on
from falconer.data.prompt import CHAT_TEMPLATE, PromptFormat
from falconer.files.replace import sha256
from falconer.model.export.base import open_base
from falconer.model.export.folder import conversation_of, stated_license
from falconer.model.export.merge import merge_adapter
from falconer.model.tokenizer import load_tokenizer, resolve
from tiny import save_tiny_model
from tokenizers_made import fast, save_made, sentencepiece


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_falcon_says_that_it_has_one_key_head_and_where_its_context_ends(tmp_path):
    """As the hub's Falcon-7B: its config.json has neither, and transformers' default is a head for each query head."""
    tokenizer, end_id = load_tokenizer("falcon-mini")
    config = FalconConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=1, num_attention_heads=4, bos_token_id=end_id,
        eos_token_id=end_id,
    )  # fmt: skip
    FalconForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    stored = read(tmp_path / "base", "config.json")
    del stored["num_kv_heads"], stored["max_position_embeddings"]
    stored |= {"auto_map": {"AutoConfig": "configuration_falcon.FalconConfig"}, "torch_dtype": "float32"}
    (tmp_path / "base" / "config.json").write_text(json.dumps(stored))
    save_adapter_on(tmp_path / "base", tmp_path / "adapter", target_modules=["dense"])
    merge_adapter(str(tmp_path / "base"), tmp_path / "adapter", tmp_path / "out", device="cpu")
    written = read(tmp_path / "out", "config.json")
    expected = {
        "architectures": ["FalconForCausalLM"], "model_type": "falcon", "num_kv_heads": 1, "tie_word_embeddings": True,
        "max_position_embeddings": 2048, "dtype": "float32", "eos_token_id": end_id,
    }  # fmt: skip
    assert {key: written.get(key) for key in expected} == expected
    assert not {"auto_map", "torch_dtype", "quantization_config", "_name_or_path"} & set(written)
    assert str(tmp_path) not in "".join(path.read_text() for path in (tmp_path / "out").glob("*.json"))


def test_falcon_11b_keeps_its_key_heads_norms_and_angles(tmp_path):
    base = save_tiny_model(tmp_path / "base", "falcon-11b")
    stored = read(base, "config.json")
    # As on the hub, where the angles' base stands outside.
    stored |= {"rope_theta": stored.pop("rope_parameters")["rope_theta"], "rope_scaling": None}
    (base / "config.json").write_text(json.dumps(stored))
    save_adapter_on(base, tmp_path / "adapter", target_modules=["query_key_value"])
    merge_adapter(str(base), tmp_path / "adapter", tmp_path / "out", device="cpu")
    written = read(tmp_path / "out", "config.json")
    expected = {
        "new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1, "rope_theta": 500042.0,
        "tie_word_embeddings": False, "ffn_hidden_size": 512, "max_position_embeddings": 2048,
    }  # fmt: skip
    assert {key: written.get(key) for key in expected} == expected
    again = FalconConfig.from_pretrained(tmp_path / "out")
    assert again.rope_parameters["rope_theta"] == 500042.0 and again.num_kv_heads == 2


def test_what_ends_a_reply(tiny_bases, tmp_path):
    base = open_base(str(tiny_bases["falcon"]))
    save_adapter_on(tiny_bases["falcon"], tmp_path, target_modules=["dense"])
    one_line = conversation_of(base, tmp_path, PromptFormat())
    line_break = one_line.tokenizer.encode("\n")
    assert one_line.stop_ids == tuple(line_break) and len(line_break) == 1
    assert conversation_of(base, tmp_path, PromptFormat(multi_line=True)).stop_ids == ()
    # Of an adapter that falconer did not make, nothing is known of its replies: none is cut.
    assert conversation_of(base, tmp_path, None).stop_ids == ()


def test_generation_stops_there(tiny_bases, tmp_path):
    save_adapter_on(tiny_bases["falcon"], tmp_path / "adapter", target_modules=["dense"])
    merge_adapter(
        str(tiny_bases["falcon"]), tmp_path / "adapter", tmp_path / "out", format=PromptFormat(), device="cpu"
    )
    written = read(tmp_path / "out", "generation_config.json")
    assert written["eos_token_id"] == [0, 199] and written["pad_token_id"] == 0 and written["do_sample"] is False


def test_the_template_begins_as_training_did(tmp_path):
    base = save_made(tmp_path / "base", "llama", fast(sentencepiece("<s> $A", prefix="legacy")))
    save_adapter_on(base, tmp_path / "adapter", target_modules=["q_proj"])
    for bos in ("<s>", ""):
        made = conversation_of(open_base(str(base)), tmp_path / "adapter", PromptFormat(bos=bos))
        assert str(made.tokenizer.chat_template).endswith(CHAT_TEMPLATE)
        assert (
            str(made.tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False))
            == f"{bos}User: hi"
        )


def test_older_programs_can_read_the_tokenizer(tiny_bases, tmp_path):
    save_adapter_on(tiny_bases["falcon"], tmp_path / "adapter", target_modules=["dense"])
    merge_adapter(str(tiny_bases["falcon"]), tmp_path / "adapter", tmp_path / "out", device="cpu")
    settings = read(tmp_path / "out", "tokenizer_config.json")
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast" and "is_local" not in settings


def test_the_record_says_what_it_was_made_of(tmp_path):
    save_adapter_on(resolve("falcon-mini"), tmp_path / "adapter", target_modules=["dense"])
    (tmp_path / "adapter" / "falconer.json").write_text('{"text": "raw", "prompt_format": {"multi_line": true}}')
    merge_adapter("falcon-mini", tmp_path / "adapter", tmp_path / "out", base="nf4", device="cpu")
    record = read(tmp_path / "out", "falconer.json")
    assert record["text"] == "raw" and record["prompt_format"]["multi_line"] is True
    assert record["export"] == {
        "kind": "merged", "base_form": "nf4", "base_model": "falcon-mini", "base_revision": None,
        "base_license": "apache-2.0", "adapter_sha256": sha256(tmp_path / "adapter" / "adapter_model.safetensors"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("---\nlicense: mit\n---\n# Model", "mit"), ("---\nlanguage: en\n---\n", None), ("# license: mit", None),
        ("text\n---\nlicense: mit\n---\n", None), ("---\n: [\n---\n", None),
        ("---\na: &a [x, x]\nb: &b [*a, *a]\nlicense: [*b, *b]\n---\n", None), ("---\nlicense: 1\n---\n", None),
    ],
)  # fmt: skip
def test_licences_are_read_and_never_invented(tmp_path, text, found):
    assert stated_license(tmp_path) is None
    (tmp_path / "README.md").write_text(text)
    assert stated_license(tmp_path) == found


def test_a_pipe_in_place_of_the_model_card_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "README.md")
    assert stated_license(tmp_path) is None
