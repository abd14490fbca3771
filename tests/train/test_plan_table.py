"""What `falconer plan` prints: plain sentences, with the device's own choice in them."""

import io

import pytest
import torch
from rich.console import Console

from falconer import runtime
from falconer.config import load
from falconer.train import forecast
from falconer.train.cards import CARDS
from falconer.train.forecast import plan_cards, plan_run
from falconer.train.plan_table import about_cards, cards_table, plan_table


def rendered(plan):
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(plan_table(plan))
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(runtime, "pick_device", lambda requested: torch.device("cuda"))
    monkeypatch.setattr(runtime, "pick_precision", lambda *_: runtime.Precision(torch.bfloat16, "it supports bf16"))
    monkeypatch.setattr(runtime, "has_fp8", lambda device: True)
    monkeypatch.setattr(runtime, "memory_gib", lambda device: (79.0, 80.0))
    monkeypatch.setattr(runtime, "environment", lambda device: {"device": "a GPU"})
    monkeypatch.setattr(forecast, "measure_flops", lambda *_: 770e12)


def row(lines, name):
    return next(line for line in lines if line.startswith(name)).split(maxsplit=1)[1].split("  ")


def test_a_gpus_plan_says_path_precision_and_where_memory_goes(gpu):
    lines = rendered(plan_run(load("falcon-7b")))
    text = "\n".join(lines)
    for wanted in (
        "precision",
        "bf16",
        "it supports bf16",
        "base matmuls in FP8",
        "including the cached dequantised weights",
    ):
        assert wanted in text
    assert "fast" in row(lines, "path") and "fast mode: all activations are kept" in text
    assert not any(word in text for word in ("numbers", "falcon path", "frozen", "arithmetic"))


def test_lean_memory_and_the_generic_path_are_called_that(gpu):
    lines = rendered(plan_run(load("falcon-7b", ["train.memory=lean", "model.path=generic"])))
    assert "generic" in row(lines, "path") and "lean mode: only block inputs are kept" in "\n".join(lines)
    assert "base matmuls" not in "\n".join(lines) and "cached dequantised" not in "\n".join(lines)


def test_cards_are_compared_one_a_line():
    plans = plan_cards(load("falcon-7b", ["model.name=tiiuae/falcon-40b"]), [CARDS["rtx-3090"], CARDS["h200"]])
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(cards_table(plans))
    head, small, large = console.export_text().splitlines()
    assert head.split() == ["card", "has", "needs", "tokens/s", "time", "path,", "precision,", "memory", "mode"]
    assert small.startswith("GeForce RTX 3090") and "does not fit" in small and "GiB too large: set" in small
    assert large.startswith("H200") and "fast, fp8" in large
    known, measured = about_cards(plans)
    assert "not measured" in known and "a million tokens" in known and "8 % off" in measured.replace("8%", "8 %")
