"""A GGUF file holds the merged model: another program's reader gives the same logits, and the metadata is complete."""

import json

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from exported import IDS, LINEAR, logits_of, save_adapter_on
from falconer.errors import FalconerError
from falconer.model.export.adapter import read_adapter
from falconer.model.export.base import open_base
from falconer.model.export.gguf import About, write_gguf, write_gguf_adapter
from falconer.model.export.gguf_layout import Layout
from falconer.model.export.merge import merge_adapter
from falconer.model.tokenizer import load_tokenizer
from tiny import save_tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")
ABOUT = About("Tiny", license="apache-2.0", base_model="tiiuae/falcon-7b", language="en", description="For tests.")


@pytest.fixture(scope="module")
def merged(tiny_bases, tmp_path_factory):
    """A merged folder of each architecture."""
    root = tmp_path_factory.mktemp("merged")
    for name, base in tiny_bases.items():
        save_adapter_on(base, root / f"{name}-adapter", target_modules=LINEAR[name])
        merge_adapter(str(base), root / f"{name}-adapter", root / name, device="cpu")
    return root


def field(reader, key):
    return reader.fields[key].contents()


# transformers takes every Falcon in GGUF for one of the 7B's layout.
@pytest.mark.parametrize("architecture", [name for name in LINEAR if name != "falcon-40b"])
def test_transformers_own_reader_gives_the_same_logits(merged, tmp_path, architecture):
    told = []
    written = write_gguf(
        merged / architecture, tmp_path / "model.gguf", "f32", ABOUT, lambda *report: told.append(report)
    )
    assert told == [(done, written.num_tensors) for done in range(written.num_tensors + 1)]
    assert written.num_bytes == (tmp_path / "model.gguf").stat().st_size
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32).eval()
    with torch.no_grad():
        assert torch.equal(model(input_ids=IDS).logits, logits_of(merged / architecture))


@pytest.mark.parametrize(("type", "error"), [("f16", 5e-4), ("bf16", 4e-3), ("q8_0", 5e-3)])
def test_types_round_as_they_say(merged, tmp_path, type, error):
    write_gguf(merged / "falcon", tmp_path / "model.gguf", type, ABOUT)
    held = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    base = open_base(str(merged / "falcon"))
    layout = Layout(base.config, is_tied=True)
    assert "output.weight" not in held and len(held) == len(base.stored)
    for name in base.stored:
        placed = layout.place(name)
        tensor = held[placed.name]
        expected = placed.put(base.read(name).float()).numpy()
        is_norm = expected.ndim == 1
        assert tensor.tensor_type.name == ("F32" if is_norm else type.upper())
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(expected.shape)
        assert np.abs(values - expected).max() <= (0 if is_norm else error * np.abs(expected).max()), name


def test_metadata(merged, tmp_path):
    write_gguf(merged / "falcon", tmp_path / "model.gguf", "q8_0", ABOUT)
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    tokenizer, end_id = load_tokenizer("falcon-mini")
    expected = {
        "general.architecture": "falcon", "general.type": "model", "general.name": "Tiny",
        "general.license": "apache-2.0", "general.languages": ["en"], "general.description": "For tests.",
        "general.base_model.count": 1, "general.base_model.0.name": "falcon-7b",
        "general.base_model.0.organization": "tiiuae",
        "general.base_model.0.repo_url": "https://huggingface.co/tiiuae/falcon-7b",
        "general.file_type": gguf.LlamaFileType.MOSTLY_Q8_0.value,
        "general.quantization_version": gguf.GGML_QUANT_VERSION, "falcon.context_length": 2048,
        "falcon.attention.head_count_kv": 1, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.eos_token_id": end_id, "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": False, "tokenizer.chat_template": tokenizer.chat_template,
    }  # fmt: skip
    assert {key: field(reader, key) for key in expected} == expected
    tokens = field(reader, "tokenizer.ggml.tokens")
    assert tokens == [tokenizer.convert_ids_to_tokens(number) for number in range(len(tokenizer))]
    assert len(field(reader, "tokenizer.ggml.merges")) == 9983
    assert str(tmp_path) not in (tmp_path / "model.gguf").read_bytes().decode("latin-1")


def test_an_untied_head_is_written(merged, tiny_bases, tmp_path):
    save_adapter_on(tiny_bases["falcon"], tmp_path / "adapter", target_modules=["lm_head"])
    merge_adapter(str(tiny_bases["falcon"]), tmp_path / "adapter", tmp_path / "out", device="cpu")
    write_gguf(tmp_path / "out", tmp_path / "model.gguf", "f32", ABOUT)
    names = {tensor.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert {"output.weight", "token_embd.weight"} <= names


def test_rows_that_blocks_of_32_do_not_fill_stay_f16(tmp_path):
    from transformers import FalconConfig, FalconForCausalLM

    tokenizer, _ = load_tokenizer("falcon-mini")
    config = FalconConfig(vocab_size=len(tokenizer), hidden_size=48, num_hidden_layers=1, num_attention_heads=3)
    FalconForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (note,) = write_gguf(tmp_path / "model", tmp_path / "model.gguf", "q8_0", ABOUT).notes
    assert note.startswith("4 tensors are f16, since the length of their rows is not a multiple of 32")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert kinds["token_embd.weight"] == "F16" and kinds["blk.0.ffn_down.weight"] == "Q8_0"


@pytest.mark.parametrize(("type", "more"), [("q4_k_m", "llama-quantize"), ("q5", "Allowed: f32, f16, bf16, q8_0")])
def test_types_that_can_not_be_made_are_refused(merged, tmp_path, type, more):
    with pytest.raises(FalconerError, match=f"GGUF of type {type} can't be written here") as caught:
        write_gguf(merged / "falcon", tmp_path / "model.gguf", type, ABOUT)
    assert more in caught.value.hint


def test_values_beyond_f16(tmp_path):
    folder = save_tiny_model(tmp_path / "model", "falcon")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.transformer.h[1].mlp.dense_h_to_4h.weight.data[0, 0] = 1e6
    model.save_pretrained(folder)
    with pytest.raises(FalconerError, match=r"blk\.1\.ffn_up\.weight contains values that are too large for f16"):
        write_gguf(folder, tmp_path / "model.gguf", "f16", ABOUT)
    write_gguf(folder, tmp_path / "model.gguf", "bf16", ABOUT)


def test_a_full_disk_leaves_the_earlier_file(merged, tmp_path, monkeypatch):
    out = tmp_path / "model.gguf"
    write_gguf(merged / "falcon", out, "q8_0", ABOUT)
    before = out.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_padding", full)
    with pytest.raises(FalconerError, match="No space left on the disk"):
        write_gguf(merged / "falcon", out, "f16", ABOUT)
    assert out.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


ADAPTERS = {
    "plain": {}, "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"h.1.*": 2, "layers.1.*": 2}, "alpha_pattern": {"h.0.*": 3, "layers.0.*": 3}},
}  # fmt: skip


@pytest.mark.parametrize("architecture", LINEAR)
@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_alone_adds_what_a_merge_adds(tiny_bases, tmp_path, architecture, kind):
    """As llama.cpp adds it: alpha / rank times B A, to the base's rows as they stand in its GGUF."""
    base = open_base(str(tiny_bases[architecture]))
    save_adapter_on(base.folder, tmp_path / "a", target_modules=LINEAR[architecture], **ADAPTERS[kind])
    written = write_gguf_adapter(str(base.folder), tmp_path / "a", tmp_path / "a.gguf", "f32", ABOUT)
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    assert (field(reader, "general.type"), field(reader, "adapter.type")) == ("adapter", "lora")
    alpha, held = field(reader, "adapter.lora.alpha"), {tensor.name: tensor.data for tensor in reader.tensors}
    layout = Layout(base.config, is_tied=bool(base.tied))
    loras = read_adapter(tmp_path / "a", base.skeleton).loras
    assert written.num_tensors == len(held) == 2 * len(loras)
    for name, lora in loras.items():
        placed, weight = layout.place(name), base.read(name)
        a, b = held[f"{placed.name}.lora_a"], held[f"{placed.name}.lora_b"]
        change = placed.put(lora.merged(weight)) - placed.put(weight)
        np.testing.assert_allclose(alpha / len(a) * b @ a, change.numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"use_dora": True}, "it is DoRA"),
        ({"modules_to_save": ["ln_f"]}, r"transformer\.ln_f\.bias was trained and saved whole"),
        ({"bias": "all"}, "was trained and saved whole"),
        ({"target_modules": ["wte"]}, r"changes the embedding \(transformer\.wte\.weight\)"),
        ({"target_modules": ["lm_head"]}, r"changes the head \(lm_head\.weight\), which shares its weight"),
    ],
)
def test_adapters_that_llama_cpp_can_not_apply_are_refused(tiny_bases, tmp_path, settings, reason):
    base = tiny_bases["gpt2"]
    save_adapter_on(base, tmp_path / "a", **({"target_modules": ["c_attn"]} | settings))
    with pytest.raises(FalconerError, match=f"llama.cpp can't apply this adapter: .*{reason}"):
        write_gguf_adapter(str(base), tmp_path / "a", tmp_path / "a.gguf", "f16", ABOUT)
    assert not (tmp_path / "a.gguf").exists()


def test_a_folder_without_a_record_keeps_what_its_tokenizer_puts_first(tiny_bases, tmp_path):
    write_gguf(tiny_bases["llama"], tmp_path / "model.gguf", "f16", About("Base"))
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    assert json.dumps(field(reader, "tokenizer.ggml.add_bos_token")) == "false"
    assert "general.license" not in reader.fields and "general.base_model.count" not in reader.fields
