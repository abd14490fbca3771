"""Does it learn: other architectures, 4 bits, from an adapter, and the embedded model on real dialogues?"""

import io
import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from falconer.config import load
from falconer.data.sources import load_dialogues
from falconer.data.sources import write_dialogues as write_ours
from falconer.errors import FalconerError
from falconer.model.load import load_model
from falconer.model.lora import adapter_sha256, add_adapter, load_adapter, without_adapter
from falconer.train import job, loop
from small_runs import Small, silent, steps, validations

# Attention alone moves a random two-layer model little.
FAST = "train.learning_rate=3e-2"


@pytest.mark.parametrize("quantization", ["nf4", "none"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox"])
def test_other_architectures_learn(tmp_path, architecture, quantization):
    small = Small(tmp_path, architecture)
    small.run(tmp_path / "run", f"model.quantization={quantization}", "lora.targets=all-linear")
    losses = [row["valid_loss"] for row in validations(tmp_path / "run")]
    assert losses[-1] < losses[0] < steps(tmp_path / "run")[0]["loss"] - 0.1
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["quantized_layers"] > 0) == (quantization == "nf4")


@pytest.mark.parametrize("targets", ["query_key_value", "all-linear"])
def test_a_falcon_in_four_bits_learns(small, tmp_path, targets):
    small.run(tmp_path, "model.quantization=nf4", f"lora.targets={targets}", "lora.dropout=0.05", FAST)
    losses = [row["valid_loss"] for row in validations(tmp_path)]
    assert losses[-1] < losses[0] < steps(tmp_path)[0]["loss"] - 0.05


def test_without_a_rate_it_is_chosen_by_the_models_size(small, tmp_path):
    """The tiny model has fewer parameters than the smallest one that was measured."""
    console = Console(file=io.StringIO(), width=200)
    settings = small.config("train.learning_rate=null", "train.warmup_share=0", "train.max_steps=2")
    loop.train(settings, tmp_path / "run", resume=False, console=console)
    assert steps(tmp_path / "run")[0]["lr"] == 2e-3
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["learning_rate"] == 2e-3
    size = load_model(str(small.model), quantization="none", dtype="fp32", device="cpu").model.num_parameters()
    assert f"rate    0.002 at its peak, for a model of {size:,} parameters" in console.file.getvalue()


def test_bf16_arithmetic_learns_with_an_adapter_in_fp32(small, tmp_path):
    small.run(tmp_path, "model.dtype=bf16", "model.quantization=nf4", FAST)
    losses = [row["valid_loss"] for row in validations(tmp_path)]
    assert losses[-1] < losses[0] < steps(tmp_path)[0]["loss"] - 0.05
    assert {tensor.dtype for tensor in load_file(tmp_path / "adapter/adapter_model.safetensors").values()} == {
        torch.float32
    }


def test_a_run_continues_from_an_adapter(small, finished, tmp_path):
    small.run(tmp_path, f"lora.init_adapter={finished / 'adapter'}")
    base = load_model(str(small.model), quantization="none", dtype="fp32", device="cpu")
    expected = adapter_sha256(load_adapter(base.model, finished / "adapter", trainable=True))
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["initial_adapter_sha256"] == expected
    assert steps(tmp_path)[0]["loss"] < steps(finished)[0]["loss"] - 0.1
    assert validations(tmp_path)[-1]["valid_loss"] < validations(finished)[-1]["valid_loss"]


@pytest.mark.parametrize("options", [{"use_dora": True}, {"modules_to_save": ["ln_f"]}, {"use_rslora": True}])
def test_a_run_continues_from_adapters_that_others_made_and_resumes(small, tmp_path, options):
    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["query_key_value"], task_type="CAUSAL_LM", **options
    )
    get_peft_model(AutoModelForCausalLM.from_pretrained(small.model), config).save_pretrained(tmp_path / "theirs")
    overrides = (f"lora.init_adapter={tmp_path / 'theirs'}", "train.max_steps=2")
    small.run(tmp_path / "run", *overrides)
    folders = (tmp_path / "theirs", tmp_path / "run/adapter")
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in folders)
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], tensor) for name, tensor in after.items() if "lora_A" not in name)
    path = json.loads((tmp_path / "run" / "run.json").read_text())["mode"]["path"]
    assert path == ("falcon" if "use_rslora" in options else "generic")
    assert small.run(tmp_path / "run", *overrides, resume=True).progress.step == 2


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_an_adapter_that_changes_the_base_itself_is_refused(small, tmp_path, bias):
    """PEFT leaves such biases on where the adapter is switched off: the base would not be the base."""
    config = LoraConfig(target_modules=["query_key_value"], task_type="CAUSAL_LM", bias=bias)
    theirs = get_peft_model(AutoModelForCausalLM.from_pretrained(small.model), config)
    theirs.save_pretrained(tmp_path / "theirs")
    with pytest.raises(FalconerError, match=f"changes the biases of its base .bias='{bias}'") as caught:
        small.run(tmp_path / "run", f"lora.init_adapter={tmp_path / 'theirs'}")
    assert "merge this one into its base" in caught.value.hint and not (tmp_path / "run").exists()
    base = load_model(str(small.model), quantization="none", dtype="fp32", device="cpu").model
    with (
        pytest.raises(FalconerError, match="the base model could not be"),
        without_adapter(load_adapter(base, tmp_path / "theirs")),
    ):
        pass


def test_an_adapter_to_go_on_from_must_have_the_settings_of_the_run(small, finished, tmp_path):
    with pytest.raises(FalconerError, match=r"other settings.*Set lora\.r=4 lora\.alpha=8 lora\.dropout=0\.0\."):
        small.run(tmp_path / "run", f"lora.init_adapter={finished / 'adapter'}", "lora.r=2")


def test_the_base_stays_as_it_was(small, tmp_path, monkeypatch):
    """Only the adapter learns: every other tensor of the model in training is what the folder holds."""
    models = []

    def remember(*args, **options):
        models.append(add_adapter(*args, **options))
        return models[-1]

    monkeypatch.setattr(job, "add_adapter", remember)
    small.run(tmp_path)
    fresh = load_model(str(small.model), quantization="none", dtype="fp32", device="cpu").model.state_dict()
    trained = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): tensor
        for name, tensor in models[0].state_dict().items()
        if "lora_" not in name
    }
    assert trained.keys() == fresh.keys()
    assert all(torch.equal(trained[name], tensor) for name, tensor in fresh.items())


def test_the_embedded_model_learns_from_real_dialogues(tmp_path):
    """The quickstart's preset, 4 bits and all, on a fortieth of its data."""
    for split, count in (("train", 40), ("valid", 8)):
        write_ours(load_dialogues("persona-chat-sample", split=split).dialogues[:count], tmp_path / f"{split}.jsonl")
    config = load("quickstart", [
        f"data.train={tmp_path / 'train.jsonl'}", f"data.valid={tmp_path / 'valid.jsonl'}", "model.device=cpu",
        "data.max_tokens=160", "train.epochs=3", "train.max_steps=6", "train.step_tokens=800", "train.validate_every=3",
    ])  # fmt: skip
    result = loop.train(config, tmp_path / "run", resume=False, console=silent())
    losses = [row["valid_loss"] for row in validations(tmp_path / "run")]
    assert losses[-1] == result.progress.best_loss < losses[0] < steps(tmp_path / "run")[0]["loss"]
    assert losses[-1] < steps(tmp_path / "run")[0]["loss"] - 0.4
