"""Loading: 4 bits really happen, nothing is silently left out, and every missing thing is explained."""

import json
import shutil
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.falcon import modeling_falcon

from falconer.data.prompt import PromptFormat
from falconer.errors import FalconerError
from falconer.model.export.base import open_base
from falconer.model.load import cost_of_nf4, load_model
from falconer.model.tokenizer import load_tokenizer
from falconer.train import setup
from tiny import ARCHITECTURES, save_tiny_model
from tokenizers_made import byte_level, fast, save_made


def test_falcon_in_4_bits_has_every_linear_layer_quantised(tiny_falcon):
    stock = modeling_falcon.FalconLinear
    loaded = load_model(str(tiny_falcon), quantization="nf4", dtype="fp32", device="cpu")
    assert loaded.num_quantized == 2 * 4
    states = [layer.weight.quant_state for layer in loaded.model.modules() if isinstance(layer, bnb.nn.Linear4bit)]
    assert {state.quant_type for state in states} == {"nf4"}
    assert all(state.nested for state in states)
    assert modeling_falcon.FalconLinear is stock
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_4_bits_for_every_architecture(tmp_path, architecture):
    loaded = load_model(str(save_tiny_model(tmp_path, architecture)), quantization="nf4", dtype="fp32", device="cpu")
    assert loaded.num_quantized >= 8


def test_unquantised_falcon_keeps_its_weights(tiny_falcon):
    loaded = load_model(str(tiny_falcon), quantization="none", dtype="fp32", device="cpu")
    again = modeling_falcon.FalconForCausalLM.from_pretrained(tiny_falcon, dtype=torch.float32)
    assert loaded.num_quantized == 0
    for ours, theirs in zip(loaded.model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_embedding_is_not_upcast(tiny_falcon):
    loaded = load_model(str(tiny_falcon), quantization="nf4", dtype="bf16", device="cpu")
    assert loaded.model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert loaded.model.transformer.h[0].input_layernorm.weight.dtype == torch.bfloat16


def test_gradients_survive_an_evaluation_in_between(tiny_falcon):
    # bitsandbytes repacks weights on some CPUs when a layer runs in evaluation mode, and loses the backward pass.
    loaded = load_model(str(tiny_falcon), quantization="nf4", dtype="bf16", device="cpu")
    ids = torch.arange(6).unsqueeze(0)

    def gradient() -> torch.Tensor:
        embedded = loaded.model.get_input_embeddings()(ids).detach().requires_grad_()
        loaded.model(inputs_embeds=embedded).logits.float().square().sum().backward()
        return embedded.grad

    loaded.model.train()
    before = gradient()
    loaded.model.eval()
    with torch.no_grad():
        loaded.model(input_ids=ids)
    loaded.model.train()
    assert before.abs().sum() > 0
    assert torch.equal(before, gradient())


def test_a_model_without_linear_layers_to_quantise_is_refused(tiny_falcon, monkeypatch):
    monkeypatch.setattr("transformers.integrations.replace_with_bnb_linear", lambda model, **_: model)
    with pytest.raises(FalconerError, match=r"model\.quantization=nf4, but 0 layers .* model\.quantization=none"):
        load_model(str(tiny_falcon), quantization="nf4", dtype="fp32", device="cpu")


def test_a_missing_model_says_what_was_tried():
    with pytest.raises(FalconerError, match=r"'nobody/nothing' was not found.*HF_HUB_OFFLINE.*falcon-mini"):
        load_model("nobody/nothing", device="cpu")


def test_pickled_weights_are_refused(tiny_falcon, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_falcon, folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(FalconerError, match=r"can't be read as a model.*safetensors"):
        load_model(str(folder), quantization="none", device="cpu")


def test_damaged_weights_are_explained(tiny_falcon, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_falcon, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(FalconerError, match="can't be read as a model"):
        load_model(str(folder), quantization="none", device="cpu")


def with_weight(folder, change):
    """Change one linear layer's weight in the file; None takes it away."""
    weights = load_file(folder / "model.safetensors")
    name = "transformer.h.1.mlp.dense_h_to_4h.weight"
    weight = weights.pop(name)
    if change is not None:
        weights[name] = change(weight).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_weights_that_are_missing_are_not_made_up(tmp_path, quantization):
    with_weight(save_tiny_model(tmp_path), None)
    with pytest.raises(
        FalconerError, match=r"incomplete: 1 tensors are missing, including transformer\.h\.1\.mlp\.dense_h_to_4h"
    ):
        load_model(str(tmp_path), quantization=quantization, dtype="fp32", device="cpu")


@pytest.mark.parametrize(
    ("quantization", "words"),
    [("nf4", "differ in shape from its config.json"), ("none", "can't be read as a model")],
)
def test_weights_of_another_shape_are_refused(tmp_path, quantization, words):
    with_weight(save_tiny_model(tmp_path), lambda weight: weight[:128])
    with pytest.raises(FalconerError, match=words):
        load_model(str(tmp_path), quantization=quantization, dtype="fp32", device="cpu")


def test_a_dropout_that_is_no_probability_is_refused_when_it_is_loaded(tiny_falcon, tmp_path):
    """Without that it is loaded, and PyTorch refuses it in the forward pass, also in evaluation mode."""
    folder = tmp_path / "falcon"
    shutil.copytree(tiny_falcon, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_dropout": 2**32}))
    with pytest.raises(FalconerError, match="config.json of '.*' is damaged: hidden_dropout is 4294967296; allowed"):
        load_model(str(folder), quantization="none", dtype="fp32", device="cpu")


def test_layers_without_end_are_refused_at_once(tiny_falcon, tmp_path):
    """transformers makes them all before it finds that there are no weights for them."""
    folder = tmp_path / "falcon"
    shutil.copytree(tiny_falcon, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2**32}))
    refused = pytest.raises(FalconerError, match="num_hidden_layers is 4294967296; allowed: at most 2,000 layers")
    with refused:
        load_model(str(folder), quantization="none", dtype="fp32", device="cpu")
    with refused:
        open_base(str(folder))


def test_remote_code_is_never_run(tiny_falcon, tmp_path):
    folder = tmp_path / "remote"
    shutil.copytree(tiny_falcon, folder)
    (folder / "evil.py").write_text("raise SystemExit('ran remote code')\nclass C: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "unheard_of", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FalconerError, match="can't be read as a model"):
        load_model(str(folder), device="cpu")


def test_a_tokenizer_without_an_end_token_is_refused(tiny_falcon, tmp_path):
    folder = tmp_path / "endless"
    shutil.copytree(tiny_falcon, folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "eos_token"}))
    with pytest.raises(FalconerError, match=r"no end token.*eos_token"):
        load_tokenizer(str(folder))


def test_asking_for_a_gpu_that_is_not_there():
    if torch.cuda.is_available():
        return
    with pytest.raises(FalconerError, match=r"model\.device=cuda, but torch sees no GPU"):
        load_model("falcon-mini", device="cuda")


def test_the_embedded_model_is_found_by_name():
    tokenizer, end_id = load_tokenizer("falcon-mini")
    assert tokenizer.decode([end_id]) == "<|endoftext|>"
    assert Path(tokenizer.name_or_path).name == "falcon-mini"


def test_the_other_end_tokens_of_a_model_stop_a_reply_too(tmp_path):
    """Gemma's and Llama 3's generation_config.json name several; ordinary tokens are none, whatever a file says."""
    tokenizer = fast(byte_level("<s> $A"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>", "<more>"]})
    folder = save_made(tmp_path, "llama", tokenizer)
    turn, more, end = tokenizer.convert_tokens_to_ids(["<turn>", "<more>", "</s>"])
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [end, turn, 5]}))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [end, more]}))
    loaded = load_model(str(folder), quantization="none", dtype="fp32", device="cpu")
    assert loaded.end_id == end and loaded.stop_ids == tuple(sorted((turn, more)))
    assert setup.make_encoder(loaded, 100, PromptFormat(bos="<s>")).stop_ids == loaded.stop_ids


def test_what_4_bits_cost_is_said_of_small_models_alone():
    assert "model.quantization=none" in cost_of_nf4(270_000_000)
    assert cost_of_nf4(7_000_000_000) == ""
