"""What does a run refuse, in one line and with exit code 2, and what is left where the loss is no number?"""

import errno
import json
import shutil

import pytest
import torch
from peft import IA3Config, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    MambaConfig,
    OlmoConfig,
    PreTrainedTokenizerFast,
    XGLMConfig,
)

from falconer.files.replace import sha256
from falconer.model.tokenizer import load_tokenizer
from falconer.train import job
from falconer.train.objectives import lm
from falconer.train.recorder import Recorder
from small_runs import exact, steps, write_dialogues


def snapshot(run):
    return {path.relative_to(run): sha256(path) for path in run.rglob("*") if path.is_file()}


def one_line(result, *parts):
    code, err = result
    # What runs is said before; the error is the last line.
    line = err.splitlines()[-1]
    assert code == 2 and line.startswith("falconer: ") and "Traceback" not in err
    for part in parts:
        assert part in line, line
    return line


def test_a_folder_that_holds_a_run(small, finished, falconer):
    before = snapshot(finished)
    one_line(falconer(*small.arguments(finished)), "already contains a run", "--resume", "--run")
    assert snapshot(finished) == before


def test_other_settings_on_resume_name_the_keys(small, finished, falconer):
    before = snapshot(finished)
    changes = ("train.learning_rate=1e-3", "lora.r=8")
    line = one_line(falconer("train", "--run", str(finished), "--resume", *changes), "was started with other settings")
    assert "lora.r, train.learning_rate differ" in line
    assert snapshot(finished) == before


def test_the_same_settings_on_resume_are_fine(small, finished, falconer, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    assert falconer(*small.arguments(tmp_path / "run"), "--resume")[0] == 0


def test_nothing_to_resume(tmp_path, falconer):
    one_line(falconer("train", "--run", str(tmp_path / "none"), "--resume"), "contains no run")
    assert not list(tmp_path.iterdir())


def test_other_data_on_resume(small, falconer, tmp_path):
    data = tmp_path / "mine.jsonl"
    shutil.copy(small.train, data)
    small.run(tmp_path / "run", f"data.train={data}", "train.max_steps=1")
    write_dialogues(data, 24, seed=99)
    before = snapshot(tmp_path / "run")
    one_line(
        falconer("train", "--run", str(tmp_path / "run"), "--resume"), "has changed since training began", str(data)
    )
    assert snapshot(tmp_path / "run") == before


def dialogue(**changes):
    turns = [{"speaker": "partner", "text": "hi"}, {"speaker": "self", "text": "hello"}]
    return {"id": "mine-1", "persona": ["i like dogs"], "turns": turns} | changes


@pytest.mark.parametrize(
    ("row", "overrides", "parts"),
    [
        (dialogue(turns=[{"speaker": "partner", "text": "hi"}]), (), ("mine.jsonl", "row 1", "no reply")),
        (dialogue(persona=["i like dogs"] * 30), ("data.max_tokens=64",), ("mine-1", "persona", "64", "max_tokens")),
        (dialogue(), ("lora.targets=q_proj",), ("q_proj", "query_key_value")),
        (dialogue(), ("model.name=no/such-model",), ("no/such-model", "HF_HUB_OFFLINE")),
        (dialogue(), ("lora.init_adapter=nowhere",), ("nowhere", "contains no adapter")),
        (dialogue(), ("train.learning_rat=1",), ("train.learning_rat", "learning_rate")),
    ],
)
def test_what_cannot_be_trained_leaves_no_folder(small, falconer, tmp_path, row, overrides, parts):
    data = tmp_path / "mine.jsonl"
    data.write_text(json.dumps(row) + "\n")
    one_line(falconer(*small.arguments(tmp_path / "run", f"data.train={data}", *overrides)), *parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "targets", "parts"),
    [
        ("mamba", "all-linear", ("out_proj", "Allowed: dt_proj, embeddings, in_proj, lm_head, x_proj.")),
        (
            "mamba",
            "auto",
            ("PEFT can't apply lora.targets=auto to a model of type mamba", "Allowed: dt_proj, embeddings, in_proj"),
        ),
        ("olmo", "auto", ("PEFT has no default for this type", "q_proj, up_proj, v_proj; or all-linear.")),
        ("xglm", "auto", ("PEFT has no default for this type", "q_proj, v_proj; or all-linear.")),
        ("xglm", "c_attn", ("'c_attn', which this model does not have", "v_proj; or all-linear.")),
    ],
)
def test_layers_that_peft_can_not_adapt(small, falconer, tmp_path, kind, targets, parts):
    tokenizer, end_id = load_tokenizer("falcon-mini")
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 1, "eos_token_id": end_id}
    heads = {"num_attention_heads": 2, "intermediate_size": 64}
    config = {
        "mamba": lambda: MambaConfig(**sizes, state_size=4),
        "olmo": lambda: OlmoConfig(**sizes, **heads),
        "xglm": lambda: XGLMConfig(vocab_size=len(tokenizer), d_model=32, ffn_dim=64, num_layers=1, attention_heads=2),
    }[kind]()
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    overrides = (f"model.name={tmp_path / 'model'}", f"lora.targets={targets}")
    one_line(falconer(*small.arguments(tmp_path / "run", *overrides)), *parts)
    one_line(falconer("plan", *small.settings, *overrides), *parts)
    assert not (tmp_path / "run").exists()


def test_an_end_token_beyond_the_embedding(small, falconer, tmp_path):
    tokenizer, _ = load_tokenizer("falcon-mini")
    size = len(tokenizer)
    shutil.copytree(small.model, tmp_path / "model")
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>"})
    tokenizer.save_pretrained(tmp_path / "model")
    parts = (f"tokenizer has {size + 1:,} entries", f"token id {size:,}", f"embedding has {size:,} rows", "resize")
    one_line(falconer(*small.arguments(tmp_path / "run", f"model.name={tmp_path / 'model'}")), *parts)
    assert not (tmp_path / "run").exists()


def test_a_word_beyond_the_embedding(small, falconer, tmp_path):
    tokenizer, _ = load_tokenizer("falcon-mini")
    size = len(tokenizer)
    shutil.copytree(small.model, tmp_path / "model")
    tokenizer.add_tokens(["horses"])
    tokenizer.save_pretrained(tmp_path / "model")
    parts = ("Dialogue 'train-", f"tokenizer of {size + 1:,} entries", f"token id {size:,}", f"has {size:,} rows")
    one_line(falconer(*small.arguments(tmp_path / "run", f"model.name={tmp_path / 'model'}")), *parts)
    assert not (tmp_path / "run").exists()


def test_a_tensor_that_would_never_change(small, falconer, tmp_path, monkeypatch):
    """As the fast path treated the head's adapter: the loss went past it."""
    monkeypatch.setattr("falconer.model.falcon.layout.why_not_only", lambda *_: "")
    overrides = ("lora.targets=query_key_value,lm_head",)
    line = one_line(
        falconer(*small.arguments(tmp_path / "run", *overrides)), "2 of 6 trainable tensors get no gradient"
    )
    assert "lm_head.lora_A.default.weight and others" in line and "Remove lm_head from lora.targets" in line
    assert not (tmp_path / "run").exists()


def test_a_model_that_reads_ahead(small, falconer, tmp_path):
    tokenizer, end_id = load_tokenizer("falcon-mini")
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        eos_token_id=end_id, initializer_range=0.5,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    overrides = (f"model.name={tmp_path / 'model'}", "lora.targets=all-linear")
    one_line(falconer(*small.arguments(tmp_path / "run", *overrides)), "type bert) is not causal", "is_decoder")


def test_an_adapter_of_another_kind_is_not_gone_on_with(small, falconer, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(small.model)
    config = IA3Config(task_type="CAUSAL_LM", target_modules=["dense"], feedforward_modules=[])
    get_peft_model(model, config).save_pretrained(tmp_path / "other")
    arguments = small.arguments(tmp_path / "run", f"lora.init_adapter={tmp_path / 'other'}")
    one_line(falconer(*arguments), "of PEFT type IA3; only LoRA can be trained")


def test_an_empty_file(small, falconer, tmp_path):
    (tmp_path / "mine.jsonl").write_text("")
    one_line(falconer(*small.arguments(tmp_path / "run", f"data.train={tmp_path / 'mine.jsonl'}")), "mine.jsonl")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_stops_with_the_dialogues_and_the_state_before(small, falconer, tmp_path, monkeypatch):
    overrides = ("train.validate_every=6", "lora.dropout=0.05")
    small.run(tmp_path / "whole", *overrides)
    real, seen = lm.nll_sum, []

    def break_third_step(model, batch, **options):
        seen.append(batch.dialogue_ids)  # the first is the check that every tensor gets a gradient
        return real(model, batch, **options) * (float("nan") if len(seen) == 4 else 1)

    monkeypatch.setattr(lm, "nll_sum", break_third_step)
    run = tmp_path / "run"
    line = one_line(falconer(*small.arguments(run, *overrides)), "not finite", "learning_rate", str(run))
    assert all(name in line for name in seen[3])
    assert len(steps(run)) == 2
    assert json.loads((run / "checkpoints/last/state.json").read_text())["progress"]["step"] == 2

    # What was saved is the run's state before that step: without the fault it goes on as if nothing had been.
    monkeypatch.setattr(lm, "nll_sum", real)
    assert falconer("train", "--run", str(run), "--resume")[0] == 0
    assert exact(run) == exact(tmp_path / "whole")
    adapters = [load_file(path / "adapter/adapter_model.safetensors") for path in (run, tmp_path / "whole")]
    assert all(torch.equal(adapters[0][name], tensor) for name, tensor in adapters[1].items())


def test_a_real_explosion_stops_the_run(small, falconer, tmp_path):
    arguments = small.arguments(tmp_path, "train.learning_rate=1e30", "train.validate_every=6")
    one_line(falconer(*arguments), "not finite", "train-", "learning_rate")


def test_a_validation_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(small, falconer, tmp_path):
    arguments = small.arguments(tmp_path, "train.learning_rate=1e30", "train.validate_every=1")
    one_line(falconer(*arguments), "validation loss after step 1 is not finite", "learning_rate")
    assert not (tmp_path / "checkpoints").exists() and not (tmp_path / "adapter").exists()


def bare_exception(*_, **__):
    # What tokenizers raises.
    raise Exception("No space left on device (os error 28)")


def operating_system(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("owner", "name", "good", "full"),
    [
        (PreTrainedTokenizerFast, "save_pretrained", 1, bare_exception),
        (PeftModel, "save_pretrained", 2, operating_system),  # while the best adapter is written
        (PeftModel, "save_pretrained", 3, operating_system),  # while the checkpoint is written
        (Recorder, "_write", 3, operating_system),
        (job, "write_loss_curve", 1, operating_system),
    ],
)
def test_a_full_disk_ends_in_one_line_and_the_run_goes_on_from_its_checkpoint(
    small, falconer, tmp_path, monkeypatch, owner, name, good, full
):
    """The disk is full after so many good writes, which are those of the first two steps and their checkpoint."""
    monkeypatch.setattr(job, "_CURVE_EVERY_S", 0.0)  # a minute has passed at each checkpoint
    overrides = ("train.validate_every=2", "lora.dropout=0.05")
    small.run(tmp_path / "whole", *overrides)
    run, real, calls = tmp_path / "run", getattr(owner, name), []

    def full_later(*args, **options):
        calls.append(name)
        return (real if len(calls) <= good else full)(*args, **options)

    monkeypatch.setattr(owner, name, full_later)
    one_line(falconer(*small.arguments(run, *overrides)), "No space left on the disk", "--resume")
    assert not [path for path in run.rglob(".*")]
    load_file(run / "adapter/adapter_model.safetensors")
    assert json.loads((run / "checkpoints/last/state.json").read_text())["progress"]["step"] in (2, 4)

    monkeypatch.setattr(owner, name, real)
    assert falconer("train", "--run", str(run), "--resume")[0] == 0
    assert exact(run) == exact(tmp_path / "whole")
