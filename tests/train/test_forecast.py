"""A plan of a run: the way that a device would take, what is advised where none fits, and plans without a network."""

from dataclasses import replace
from io import StringIO

import pytest
import torch
from rich.console import Console

from falconer import runtime
from falconer.config import load
from falconer.errors import FalconerError
from falconer.train import forecast as planning
from falconer.train.cards import CARDS
from falconer.train.cost import own_layers_memory
from falconer.train.forecast import plan_cards, plan_run
from falconer.train.plan_table import plan_table
from tiny import save_tiny_model


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
    for word in ("NF4", "fits", "tokens per epoch", "the whole run", "FLOP/s", "792,576"):
        assert word in text


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


def test_a_wrong_target_is_named():
    with pytest.raises(FalconerError, match="lora.targets names 'q_proj'"):
        plan_run(load("falcon-7b", ["lora.targets=q_proj"]))


@pytest.mark.parametrize(
    ("card", "way"),
    [
        ("rtx-3060", ("fast", "bf16", "lean", False)),
        ("rtx-3090", ("fast", "bf16", "fast", False)),
        ("rtx-4090", ("fast", "fp8", "fast", False)),
        ("a100", ("fast", "bf16", "fast", True)),
        ("t4", ("generic", "fp32", "lean", False)),
    ],
)
def test_a_card_that_is_not_here_takes_the_way_that_it_would(card, way):
    (plan,) = plan_cards(load("falcon-7b"), [CARDS[card]])
    assert (plan.mode.path, plan.mode.compute, plan.mode.memory, plan.mode.caches_weights) == way
    assert plan.advice == "" and plan.needed_gib < plan.free_gib < plan.total_gib == CARDS[card].memory_gib
    assert plan.speed_from == "data sheet"
    text = rendered(plan)
    assert "not measured" in text and CARDS[card].title in text


def test_what_was_asked_for_holds_on_a_card_too():
    plan, other = (
        plan_cards(load("falcon-7b", ["train.micro_tokens=2048", more]), [CARDS["rtx-4090"]])[0]
        for more in ("model.dtype=fp32", "model.path=generic")
    )
    assert plan.precision == "fp32: as configured" and plan.mode.path == "generic"
    assert other.precision.startswith("bf16") and other.mode.path == "generic"
    assert other.tokens_per_s > plan.tokens_per_s


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A folder with a model of the generic path whose activations are larger than its weights."""
    return save_tiny_model(tmp_path_factory.mktemp("llama"), "llama")


def planned_for_a_card(llama, memory_gib, *overrides):
    settings = [
        f"model.name={llama}", "model.quantization=none", "lora.targets=all-linear", "train.micro_tokens=200000",
        "data.max_dialogues=1200",
    ]  # fmt: skip
    card = replace(CARDS["rtx-4090"], memory_gib=memory_gib)
    return plan_cards(load(None, [*settings, *overrides]), [card])[0]


def test_where_two_passes_fit_micro_batches_are_planned_to_be_recorded(llama):
    recorded = planned_for_a_card(llama, 24)
    assert recorded.mode.recorded and recorded.mode.own_layers and recorded.mode.memory == "fast"
    assert "micro-batches are CUDA graphs: it is tried first" in recorded.mode.lines()[0]
    own = own_layers_memory(
        recorded.shape, tokens=round(1.125 * recorded.micro[0]), longest=recorded.micro[1],
        num_logits=round(0.4 * recorded.micro[0]), checkpointing=False, quantized=False, bytes_each=2,
    )  # fmt: skip
    assert recorded.memory.kept == own.kept
    assert recorded.memory.adapter == own.adapter + 4 * recorded.shape.adapter
    # Its first pass is computed beside the graphs.
    twice = (recorded.memory.total + recorded.memory.kept + recorded.memory.passing) / 2**30 + recorded.overhead_gib
    just_enough, too_little = (planned_for_a_card(llama, share * twice / 0.93 / 0.97) for share in (1.01, 0.99))
    assert just_enough.mode.recorded and not too_little.mode.recorded
    assert planned_for_a_card(llama, 24, "train.memory=lean").mode.why_recorded.startswith("with train.memory=lean")
    assert planned_for_a_card(llama, 24, "model.quantization=nf4").mode.why_recorded == "the base is in 4 bits"
