"""A base is found as `from_pretrained` finds it: names, prefixes, shared weights; and what is missing is named."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from exported import logits_of
from falconer.errors import FalconerError
from falconer.model.export.base import open_base
from tiny import save_tiny_model


@pytest.fixture
def falcon(tmp_path):
    return save_tiny_model(tmp_path / "falcon", "falcon")


def edit(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_the_head_shares_the_embeddings_weight(falcon):
    base = open_base(str(falcon))
    assert base.tied == {"lm_head.weight": "transformer.word_embeddings.weight"} and base.head == "lm_head.weight"
    assert "lm_head.weight" not in base.stored
    assert torch.equal(base.read("transformer.ln_f.weight"), torch.ones(128))


def test_the_head_is_in_the_file_too(falcon):
    edit(falcon, lambda held: held.update({"lm_head.weight": held["transformer.word_embeddings.weight"].clone()}))
    assert list(open_base(str(falcon)).tied) == ["lm_head.weight"]
    edit(falcon, lambda held: held["lm_head.weight"].add_(1))
    assert open_base(str(falcon)).tied == {} and "lm_head.weight" in open_base(str(falcon)).stored


def test_the_head_alone_is_in_the_file(falcon):
    before = logits_of(falcon)
    edit(falcon, lambda held: held.update({"lm_head.weight": held.pop("transformer.word_embeddings.weight")}))
    assert torch.equal(logits_of(falcon), before)
    base = open_base(str(falcon))
    assert base.stored["transformer.word_embeddings.weight"] == "lm_head.weight" and base.tied


def test_names_without_the_models_prefix(tmp_path):
    """As the hub's GPT-2 has them."""
    folder = save_tiny_model(tmp_path / "gpt2", "gpt2")

    def strip(held):
        for name in list(held):
            held[name.removeprefix("transformer.")] = held.pop(name)

    edit(folder, strip)
    base = open_base(str(folder))
    assert base.stored["transformer.h.0.attn.c_attn.weight"] == "h.0.attn.c_attn.weight"
    assert base.saved_name("transformer.h.0.attn.c_attn.weight") == "transformer.h.0.attn.c_attn.weight"


def test_names_that_transformers_changed(tmp_path):
    base = open_base(str(save_tiny_model(tmp_path / "neox", "gpt_neox")))
    assert base.stored["lm_head.weight"] == "embed_out.weight" == base.saved_name("lm_head.weight")
    assert base.saved_name("something.else") == "something.else"


def test_missing_tensors_are_named(falcon):
    edit(falcon, lambda held: held.pop("transformer.ln_f.bias"))
    with pytest.raises(FalconerError, match=r"incomplete: 1 tensors are missing, including transformer\.ln_f\.bias"):
        open_base(str(falcon))


def test_weights_that_are_stored_quantised(falcon):
    config = json.loads((falcon / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (falcon / "config.json").write_text(json.dumps(config))
    with pytest.raises(FalconerError, match="are stored quantised"):
        open_base(str(falcon))


def test_no_such_model(tmp_path):
    with pytest.raises(FalconerError, match="was not found"):
        open_base("nobody/nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FalconerError, match="can't be read as a model"):
        open_base(str(tmp_path / "empty"))
