"""What is read back from GGUF files is what was written: weights, tokenizer, adapters; and nothing is passed over."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from exported import IDS, LINEAR, save_adapter_on
from falconer.errors import FalconerError
from falconer.model.export.gguf import About, write_gguf, write_gguf_adapter
from falconer.model.export.gguf_read import GgufFile, add_lora, encoder_of, put_weights
from falconer.model.export.gguf_vocabulary import sample_conversations
from falconer.model.tokenizer import load_tokenizer
from tiny import make_two_norms_unlike
from tokenizers_made import save_made

pytestmark = pytest.mark.usefixtures("one_thread")
ABOUT = About("Tiny")
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256}
KINDS = {
    "falcon": {"multi_query": True, "bias": False},
    "falcon 40b": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon 11b": {
        "new_decoder_architecture": True,
        "num_kv_heads": 2,
        "num_ln_in_parallel_attn": 1,
        "tie_word_embeddings": False,
        "rope_theta": 500042.0,
    },
    "llama": {"intermediate_size": 96, "num_key_value_heads": 2},
    "gemma": {"intermediate_size": 96, "num_key_value_heads": 2, "head_dim": 16},
    "gpt2": {},
    "gpt_neox": {"intermediate_size": 96, "tie_word_embeddings": True},
}


def fresh(folder):
    """Return a model of the folder's shape whose every parameter is NaN: what is not read back would show."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    return model


@pytest.mark.parametrize(
    ("kind", "type", "tolerance"), [*((kind, "f32", 1e-6) for kind in KINDS), ("falcon", "q8_0", 0.02)]
)
def test_weights_come_back(tmp_path, kind, type, tolerance):
    tokenizer, end_id = load_tokenizer("falcon-mini")
    ends = {"bos_token_id": end_id, "eos_token_id": end_id, "pad_token_id": None}
    config = AutoConfig.for_model(kind.split()[0], vocab_size=len(tokenizer), **(SIZES | ends | KINDS[kind]))
    original = AutoModelForCausalLM.from_config(config).eval()
    make_two_norms_unlike(original)
    original.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    write_gguf(tmp_path / "model", tmp_path / "model.gguf", type, ABOUT)
    model = fresh(tmp_path / "model")
    put_weights(GgufFile(tmp_path / "model.gguf"), tmp_path / "model", model)
    expected, found = original(input_ids=IDS).logits, model(input_ids=IDS).logits
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("architecture", LINEAR)
def test_an_adapter_comes_back(tiny_bases, tmp_path, architecture):
    base = tiny_bases[architecture]
    tuned = save_adapter_on(base, tmp_path / "adapter", target_modules=LINEAR[architecture], lora_alpha=12)
    write_gguf_adapter(str(base), tmp_path / "adapter", tmp_path / "lora.gguf", "f32", ABOUT)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    before = model(input_ids=IDS).logits
    add_lora(GgufFile(tmp_path / "lora.gguf"), base, model)
    torch.testing.assert_close(model(input_ids=IDS).logits, tuned(input_ids=IDS).logits, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, model(input_ids=IDS).logits, atol=1e-3)


def test_a_file_of_another_model_is_refused(tiny_bases, tmp_path):
    write_gguf(tiny_bases["falcon"], tmp_path / "model.gguf", "f32", ABOUT)
    with pytest.raises(FalconerError, match="has no tensor"):
        put_weights(GgufFile(tmp_path / "model.gguf"), tiny_bases["llama"], fresh(tiny_bases["llama"]))
    save_adapter_on(tiny_bases["gpt2"], tmp_path / "adapter", target_modules=["c_attn"])
    write_gguf_adapter(str(tiny_bases["gpt2"]), tmp_path / "adapter", tmp_path / "lora.gguf", "f32", ABOUT)
    with pytest.raises(FalconerError, match="changes a weight that the model does not have"):
        add_lora(GgufFile(tmp_path / "lora.gguf"), tiny_bases["llama"], fresh(tiny_bases["llama"]))


@pytest.mark.parametrize("kind", ["falcon-mini", "llama"])
def test_token_ids_are_the_tokenizers(tmp_path, tiny_bases, kind):
    folder = tiny_bases["falcon"] if kind == "falcon-mini" else save_made(tmp_path / "model", kind)
    write_gguf(folder, tmp_path / "model.gguf", "f32", ABOUT)
    encode, tokenizer = encoder_of(GgufFile(tmp_path / "model.gguf")), AutoTokenizer.from_pretrained(folder)
    texts = sample_conversations(load_tokenizer(str(folder))[0])[:20]
    for text in texts:
        assert encode(text) == tokenizer(text, add_special_tokens=False).input_ids


def test_what_is_no_gguf_file_is_named(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"not a model" * 10)
    with pytest.raises(FalconerError, match=r"model\.gguf' can't be read as GGUF"):
        GgufFile(tmp_path / "model.gguf")
