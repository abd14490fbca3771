"""Does the training benchmark measure every system on one model, and write down what it found?"""

import io
import json

import pytest
import torch
from rich.console import Console

from falconer.bench import train
from falconer.bench.result import train_table, write_result
from falconer.bench.train import Case, cases, measure, measure_case

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def rows(one_thread):
    return [found.flat() for kind, found in measure("tiny", runs=1, warmup=0) if kind == "row"]


def test_every_system_is_measured_on_the_tiny_shape(rows):
    assert [(row["system"], row["memory"]) for row in rows] == [
        ("falconer", "fast"), ("falconer", "lean"), ("peft", "fast"), ("peft-reference", "lean")
    ]  # fmt: skip
    assert all(row["tok_s"] > 0 and row["peak_gib"] > 0 for row in rows)
    assert rows[0]["holds_weights"] and not rows[1]["holds_weights"]


def test_the_7bs_table_has_both_precisions_where_there_is_fp8_and_the_small_card():
    with_fp8 = cases("falcon-7b", fp8=True)
    assert {case.compute for case in with_fp8 if case.system == "falconer"} == {"bf16", "fp8"}
    assert {case.compute for case in cases("falcon-7b", fp8=False)} == {"bf16"}
    assert {case.cap_gib for case in with_fp8} == {None, 24}


def test_running_out_of_memory_is_a_result(monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(train, "training_step", fail)
    monkeypatch.setattr(train, "disable", lambda model: None)
    row = measure_case(None, Case("peft", "bf16", "fast", 2, 32), CPU, runs=1, warmup=0).flat()
    assert row["tok_s"] is None and row["peak_gib"] is None
    shown = io.StringIO()
    Console(file=shown, width=120).print(train_table([row], {16384: 25000.0}))
    assert "out of memory" in shown.getvalue()


def test_the_file_says_what_was_measured_where(rows, tmp_path):
    path = tmp_path / "train.json"
    write_result(path, "a benchmark", rows, ceiling_tok_s={16384: 25000.0})
    found = json.loads(path.read_text())
    assert {"what", "gpu", "driver", "versions", "ceiling_tok_s", "rows"} <= found.keys()
    assert found["versions"].keys() >= {"torch", "peft", "bitsandbytes"} and found["rows"] == rows


def test_the_table_holds_each_row_against_the_ceiling_peft_and_the_recipe():
    def row(system, rate):
        return Case(system, "bf16", "fast", 8, 512), rate

    measured = [train.Row(case, rate, 1.0).flat() for case, rate in (
        row("falconer", 20000.0), row("peft", 10000.0), row("peft-reference", 5000.0)
    )]  # fmt: skip
    shown = io.StringIO()
    Console(file=shown, width=120).print(train_table(measured, {2048: 1.0, 16384: 25000.0}))
    assert shown.getvalue().splitlines()[1].split()[-3:] == ["0.80", "2.00", "4.00"]
