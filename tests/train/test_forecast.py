"""A plan of a run: the way that a device would take, what is advised where none fits, and plans without a network."""

from io import StringIO

import pytest
import torch
from rich.console import Console

from falconer import runtime
from falconer.config import load
from falconer.errors import FalconerError
from falconer.train import forecast as planning
from falconer.train.forecast import plan_run
from falconer.train.plan_table import plan_table


def rendered(plan):
    console = Console(width=160, file=StringIO())
    console.print(plan_table(plan))
    return console.file.getvalue()


BIG, SMALLER = ("model.name=tiiuae/falcon-40b",), ("model.name=tiiuae/falcon-11B",)


@pytest.mark.parametrize(
    ("free_gib", "overrides", "way"),
    [
        (180, BIG, ("fast", "fp8", "fast", True)),
        (90, BIG, ("fast", "fp8", "fast", False)),
        (30, BIG, ("fast", "fp8", "lean", False)),
        (80, SMALLER, ("fast", "fp8", "fast", True)),
        (10, SMALLER, ("fast", "fp8", "lean", False)),
        (80, (), ("fast", "fp8", "fast", True)),
        (30, (), ("fast", "fp8", "fast", False)),
        (16, (), ("fast", "fp8", "lean", False)),
        (80, ("train.memory=lean",), ("fast", "fp8", "lean", False)),
        (80, ("train.compute=bf16",), ("fast", "bf16", "fast", True)),
        (90, ("model.path=generic",), ("generic", "bf16", "fast", False)),
        (20, ("model.path=generic",), ("generic", "bf16", "lean", False)),
    ],
)
def test_the_way_that_a_gpu_of_some_size_would_take(monkeypatch, free_gib, overrides, way):
    monkeypatch.setattr(runtime, "pick_device", lambda requested: torch.device("cuda"))
    monkeypatch.setattr(runtime, "pick_precision", lambda *_: runtime.Precision(torch.bfloat16, "it supports bf16"))
    monkeypatch.setattr(runtime, "has_fp8", lambda device: True)
    monkeypatch.setattr(runtime, "memory_gib", lambda device: (free_gib, free_gib))
    monkeypatch.setattr(runtime, "environment", lambda device: {"device": "a GPU"})
    monkeypatch.setattr(planning, "measure_flops", lambda *_: 770e12)
    plan = plan_run(load("falcon-7b", overrides))
    assert (plan.mode.path, plan.mode.compute, plan.mode.memory, plan.mode.caches_weights) == way
    assert plan.advice == ""


def test_a_plan_of_the_quickstart_counts_its_steps():
    plan = plan_run(load("quickstart", ["data.max_dialogues=200", "train.max_steps=7"]))
    assert plan.work is not None
    assert plan.work.num_steps == 7
    assert plan.work.longest <= 512
    assert plan.work.positions <= 7 * 2048
    assert plan.advice == ""
    text = rendered(plan)
    for word in ("NF4", "fits", "tokens per epoch", "the whole run", "FLOP/s", "129,024"):
        assert word in text


@pytest.mark.parametrize("name", ["falcon-7b", "falcon-40b", "falcon-40b-instruct", "falcon-11B"])
def test_falcons_are_planned_without_the_hub(name):
    plan = plan_run(load("falcon-7b", [f"model.name=tiiuae/{name}"]))
    assert plan.mode.path == "fast"
    assert plan.work is None
    assert plan.on_h200 is not None
    text = rendered(plan)
    assert "known shape" in text
    assert "data set 'AlekseyKorshuk/persona-chat' can't be reached" in text
    assert "for a million tokens" in text


def test_own_data_for_a_model_out_of_reach_are_counted_with_the_embedded_tokenizer():
    plan = plan_run(load("falcon-7b", ["data.train=persona-chat-sample", "data.max_dialogues=50"]))
    assert plan.work is not None
    assert "tokenizer of falcon-mini" in plan.work.note


@pytest.mark.parametrize(
    ("overrides", "advice"),
    [
        (["model.quantization=none"], "model.quantization=nf4"),
        (["train.memory=fast"], "train.memory=auto"),
        ([], "train.micro_tokens=4096"),
        (["train.memory=lean", "train.micro_tokens=1024"], "data.max_tokens=512"),
        (["train.memory=lean", "train.micro_tokens=64", "data.max_tokens=64"], "a smaller model"),
    ],
)
def test_what_does_not_fit_says_what_to_change(monkeypatch, overrides, advice):
    monkeypatch.setattr(runtime, "memory_gib", lambda device: (1.0, 2.0))
    plan = plan_run(load(None, ["model.name=tiiuae/falcon-7b", "data.train=nobody/nothing", *overrides]))
    assert advice in plan.advice
    assert "does not fit" in rendered(plan)


def test_another_model_out_of_reach_is_the_usual_error():
    with pytest.raises(FalconerError, match="'nobody/nothing' was not found"):
        plan_run(load(None, ["model.name=nobody/nothing"]))


def test_a_mistyped_data_file_is_no_unknown_data_set():
    with pytest.raises(FalconerError, match="There is no file"):
        plan_run(load("quickstart", ["data.train=nothing.jsonl"]))


def test_a_wrong_target_is_named():
    with pytest.raises(FalconerError, match="lora.targets names 'q_proj'"):
        plan_run(load("falcon-7b", ["lora.targets=q_proj"]))


def test_a_dead_network_is_asked_once(monkeypatch):
    monkeypatch.setattr(runtime, "is_offline", lambda: False)
    monkeypatch.setattr(runtime, "hub_is_reachable", lambda: False)
    asked = []
    monkeypatch.setattr(planning.setup, "load_dialogues", lambda config: asked.append(config))
    plan = plan_run(load("falcon-7b"))
    assert plan.work is None and not asked
