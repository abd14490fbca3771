"""A merge is what PEFT's own merge gives, to the last bit in fp32, and any program loads what is written."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from exported import EMBEDDING, IDS, LINEAR, logits_of, save_adapter_on
from falconer.data.encode import Encoder
from falconer.data.prompt import PromptFormat, messages
from falconer.data.sources import SAMPLE, load_dialogues
from falconer.errors import FalconerError
from falconer.model.export import merge
from falconer.model.export.merge import merge_adapter, prepare_merge
from falconer.model.load import load_model
from falconer.model.lora import add_adapter, save_adapter, trainable_tensors
from falconer.model.tokenizer import open_tokenizer
from tokenizers_made import save_made

pytestmark = pytest.mark.usefixtures("one_thread")

VARIANTS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {"h.1.*": 2, "layers.1.*": 2}, "alpha_pattern": {"h.0.*": 3, "layers.0.*": 3}},
    "one layer": {"layers_to_transform": [1]},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("architecture", LINEAR)
def test_weights_are_those_of_peft(tiny_bases, tmp_path, architecture, variant):
    base = tiny_bases[architecture]
    model = save_adapter_on(base, tmp_path / "adapter", target_modules=LINEAR[architecture], **VARIANTS[variant])
    merged = merge_adapter(str(base), tmp_path / "adapter", tmp_path / "out", device="cpu")
    expected = model.merge_and_unload().state_dict()
    written = load_file(tmp_path / "out" / "model.safetensors")
    before = load_file(base / "model.safetensors")
    changed = {name for name in before if not torch.equal(written[name], before[name])}
    assert len(changed) == merged.num_changed > 0 and set(written) == set(before)
    assert merged.num_tensors == len(before) and not merged.is_untied
    for name, tensor in written.items():
        # DoRA's lengths are summed in another order where the weight lies the other way round.
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6 if variant == "dora" else 0, msg=name)


def test_each_tensor_that_is_written_is_told(tiny_bases, tmp_path):
    base, told = tiny_bases["llama"], []
    save_adapter_on(base, tmp_path / "adapter", target_modules=LINEAR["llama"])
    ready = prepare_merge(
        str(base), tmp_path / "adapter", base="bf16", dtype=None, revision=None, format=None, device="cpu"
    )
    merged = ready.write(tmp_path / "out", lambda *report: told.append(report))
    assert told == [(done, merged.num_tensors) for done in range(merged.num_tensors + 1)]


CHANGES = {
    "head": (("head",), {}),
    "embedding": (("embedding",), {}),
    "both": (("head", "embedding"), {}),
    "head, DoRA": (("head",), {"use_dora": True}),
    "embedding, DoRA": (("embedding",), {"use_dora": True}),
    "head saved whole": ((), {"modules_to_save": ["lm_head"]}),
    "embedding saved whole": ((), {"modules_to_save": True}),
}


@pytest.mark.parametrize("architecture", LINEAR)
@pytest.mark.parametrize("change", CHANGES)
def test_head_and_embedding_are_each_their_own(tiny_bases, tmp_path, architecture, change):
    base, embedding = tiny_bases[architecture], EMBEDDING[architecture]
    layers, settings = CHANGES[change]
    targets = [{"head": "lm_head", "embedding": embedding}[layer] for layer in layers] or LINEAR[architecture]
    if settings.get("modules_to_save") is True:
        settings = {"modules_to_save": [embedding]}
    model = save_adapter_on(base, tmp_path / "adapter", target_modules=targets, **settings)
    merged = merge_adapter(str(base), tmp_path / "adapter", tmp_path / "out", device="cpu")
    assert merged.is_untied == json.loads((base / "config.json").read_text())["tie_word_embeddings"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    torch.testing.assert_close(logits_of(tmp_path / "out"), model(input_ids=IDS).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{"bias": "all"}, {"bias": "lora_only"}, {"lora_bias": True}], ids=str)
def test_biases(tiny_bases, tmp_path, settings):
    base = tiny_bases["gpt2"]
    model = save_adapter_on(base, tmp_path / "adapter", target_modules=["c_attn"], **settings)
    expected = model(input_ids=IDS).logits
    merge_adapter(str(base), tmp_path / "adapter", tmp_path / "out", device="cpu")
    torch.testing.assert_close(logits_of(tmp_path / "out"), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("stored", "files"), [("bfloat16", "one"), ("float16", "index"), ("float32", "no index"), ("bfloat16", "no index")]
)
def test_bases_as_people_have_them(tiny_bases, tmp_path, stored, files):
    base, dtype = tmp_path / "base", getattr(torch, stored)
    model = AutoModelForCausalLM.from_pretrained(tiny_bases["llama"], dtype=dtype)
    model.save_pretrained(base, **({} if files == "one" else {"max_shard_size": "2MB"}))
    assert (len(list(base.glob("*.safetensors"))) > 1) == (files != "one")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).write_bytes((tiny_bases["llama"] / name).read_bytes())
    whole = save_adapter_on(base, tmp_path / "adapter", target_modules=LINEAR["llama"]).merge_and_unload().state_dict()
    if files == "no index":
        (base / "model.safetensors.index.json").unlink()
    merged = merge_adapter(str(base), tmp_path / "adapter", tmp_path / "out", device="cpu")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == stored and len(merged.files) == 1
    for name, tensor in load_file(merged.files[0]).items():
        # Rounded once, from the sum in fp32.
        assert torch.equal(tensor, whole[name].to(dtype)), name


def test_several_shards_are_what_one_is(tiny_bases, tmp_path, monkeypatch):
    base = tiny_bases["falcon"]
    save_adapter_on(base, tmp_path / "adapter", target_modules=LINEAR["falcon"])
    merge_adapter(str(base), tmp_path / "adapter", tmp_path / "one", device="cpu")
    monkeypatch.setattr(merge, "SHARD_BYTES", 500_000)
    merged = merge_adapter(str(base), tmp_path / "adapter", tmp_path / "many", device="cpu")
    assert len(merged.files) > 2
    assert torch.equal(logits_of(tmp_path / "one"), logits_of(tmp_path / "many"))


def falconer_adapter(base_folder, folder, format, targets="query_key_value"):
    base = load_model(str(base_folder), quantization="none", dtype="fp32", device="cpu")
    model = add_adapter(base.model, r=4, alpha=8, dropout=0.0, targets=targets, seed=1)
    with torch.no_grad():
        for parameter in trainable_tensors(model).values():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    save_adapter(model.eval(), base.tokenizer, folder, "raw", format)
    return model


PROGRAM = """
import json, sys, torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, asked = sys.argv[1:]
rows = json.load(open(asked))
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
ids = [tokenizer.apply_chat_template(row, return_dict=False) for row in rows["messages"]]
assert ids == rows["ids"], "other token ids"
expected = load_file(rows["logits"])["logits"]
torch.testing.assert_close(model(input_ids=torch.arange(1, 25).unsqueeze(0)).logits, expected, rtol=1e-4, atol=1e-4)
assert not any(name.startswith(("falconer", "peft")) for name in sys.modules)
print("the same")
"""


@pytest.mark.parametrize("kind", ["falcon", "llama with BOS"])
def test_a_program_without_falconer_loads_the_folder(tiny_bases, tmp_path, kind):
    has_bos = kind != "falcon"
    base = save_made(tmp_path / "base", "llama") if has_bos else tiny_bases["falcon"]
    opened = open_tokenizer(str(base))
    format = PromptFormat(bos=opened.bos)
    assert bool(format.bos) == has_bos
    model = falconer_adapter(base, tmp_path / "adapter", format, "q_proj" if has_bos else "query_key_value")
    merge_adapter(str(base), tmp_path / "adapter", tmp_path / "out", device="cpu")
    encoder = Encoder(opened.tokenizer.backend_tokenizer.to_str(), opened.end_id, 10**6, format)
    dialogues = load_dialogues(SAMPLE, split="valid").dialogues[:50]
    ids = [example.ids.tolist() for example in encoder.encode(dialogues)[0]]
    # An example ends with its last reply; the template writes what the partner says behind it too.
    shown = [messages(dialogue)[: 1 + _last_reply(dialogue) + bool(dialogue.persona)] for dialogue in dialogues]
    save_file({"logits": model(input_ids=IDS).logits.detach().contiguous()}, tmp_path / "logits.safetensors")
    asked = {"messages": shown, "ids": ids, "logits": str(tmp_path / "logits.safetensors")}
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "out"), str(tmp_path / "asked.json")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.stdout.strip() == "the same", result.stderr


def _last_reply(dialogue):
    return max(dialogue.replies)


def test_a_folder_with_other_files_is_not_replaced(tiny_bases, tmp_path):
    base = tiny_bases["falcon"]
    save_adapter_on(base, tmp_path / "adapter", target_modules=["dense"])
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(FalconerError, match="contains other files"):
        merge_adapter(str(base), tmp_path / "adapter", out, device="cpu")
    assert (out / "thesis.txt").read_text() == "years of work"
    with pytest.raises(FalconerError, match="contains other files"):
        merge_adapter(str(base), tmp_path / "adapter", tmp_path / "adapter", device="cpu")
    (out / "thesis.txt").unlink()
    merge_adapter(str(base), tmp_path / "adapter", out, device="cpu")
    merge_adapter(str(base), tmp_path / "adapter", out, device="cpu")


def test_another_form_of_the_base_is_refused(tiny_bases, tmp_path):
    with pytest.raises(FalconerError, match="base=int8"):
        merge_adapter(str(tiny_bases["falcon"]), tmp_path, tmp_path / "out", base="int8")


def test_a_full_disk_leaves_the_earlier_export(tiny_bases, tmp_path, monkeypatch):
    base, out = tiny_bases["falcon"], tmp_path / "out"
    save_adapter_on(base, tmp_path / "adapter", target_modules=["dense"])
    merge_adapter(str(base), tmp_path / "adapter", out, device="cpu")
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*_, **__):
        from safetensors import SafetensorError

        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("falconer.model.export.weights.save_file", full)
    with pytest.raises(FalconerError, match="No space left on the disk"):
        merge_adapter(str(base), tmp_path / "adapter", out, device="cpu")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "out"]


def test_values_that_the_format_cannot_hold_are_refused(tiny_bases, tmp_path):
    base = tiny_bases["falcon"]
    save_adapter_on(base, tmp_path / "adapter", target_modules=["dense"])
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    save_file({name: tensor * 1e6 for name, tensor in weights.items()}, tmp_path / "adapter/adapter_model.safetensors")
    with pytest.raises(FalconerError, match=r"merged weight transformer\.h\.0.* too large for float16"):
        merge_adapter(str(base), tmp_path / "adapter", tmp_path / "out", dtype=torch.float16, device="cpu")
    assert not (tmp_path / "out").exists()
