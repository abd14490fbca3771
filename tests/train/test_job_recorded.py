"""A run whose micro-batches are recorded: its steps are those of any other run, and so is one that is resumed.

Where a GPU would replay, the host computes again.
"""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from falconer.model.layers.replace import replace_layers
from falconer.records import Batch
from falconer.train import job, loop
from falconer.train.padded_batch import Shape
from falconer.train.recorded import Pass
from falconer.train.ways import Mode
from recorded_on_host import OnTheHost
from small_runs import Small, exact, steps, validations

SETTINGS = ("train.micro_tokens=150", "lora.targets=all-linear")


class Noted(OnTheHost):
    """Notes which of them record."""

    seen: "list[Noted]" = []  # noqa: RUF012

    def _record(self, shape: Shape, given: torch.Tensor) -> Pass:
        self.seen.append(self)
        return super()._record(shape, given)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return Small(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def usual(llama: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the model's own layers, as on any CPU."""
    run = tmp_path_factory.mktemp("usual") / "run"
    llama.run(run, *SETTINGS)
    return run


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Noted]:
    """Let runs record, as on a GPU; the list gets what has recorded a shape, as often as it has."""

    def choose(model: Any, precision: Any, device: Any, asked: Any, **calls: Any) -> Mode:
        assert replace_layers(model, None) == ""
        calls["try_batch"]()
        why_not = calls["record"]()
        return Mode("generic", "a", "fp32", "b", "fast", "c", False, True, not why_not, why_not or "it was tried")

    seen: list[Noted] = []
    monkeypatch.setattr(Noted, "seen", seen)
    monkeypatch.setattr(job, "Recorded", Noted)
    monkeypatch.setattr(job, "why_not_recorded", lambda *_: "")
    monkeypatch.setattr(job, "choose_mode", choose)
    return seen


def train(llama: Small, run: Path, *overrides: str, resume: bool = False) -> str:
    shown = io.StringIO()
    config = llama.config(*SETTINGS, *overrides)
    loop.train(config, run, resume=resume, console=Console(file=shown, width=300))
    return shown.getvalue()


def test_a_recorded_run_is_the_usual_one(llama: Small, usual: Path, graphs: list[Noted], tmp_path: Path) -> None:
    shown = train(llama, tmp_path / "run")
    assert len(set(graphs)) == 1 and len(graphs) > 2, "several shapes are recorded"
    assert "path    generic: a; micro-batches are CUDA graphs: it was tried" in shown and "any more" not in shown
    mode = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["mode"]
    assert (mode["recorded"], mode["why_recorded"]) == (True, "it was tried")
    found, expected = steps(tmp_path / "run"), steps(usual)
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in expected], abs=1e-5)
    assert [row["grad_norm"] for row in found] == pytest.approx([row["grad_norm"] for row in expected], rel=1e-3)
    assert [row["tokens"] for row in found] == [row["tokens"] for row in expected]
    best = [[row["valid_loss"] for row in validations(run)] for run in (tmp_path / "run", usual)]
    assert best[0] == pytest.approx(best[1], abs=1e-5)


def test_a_recorded_run_that_is_resumed_is_bit_for_bit_the_whole_one(
    llama: Small, graphs: list[Noted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(llama, tmp_path / "whole")

    class Killed(Exception):
        pass

    before = job.Job.step

    def step(self: job.Job) -> dict[str, float]:
        if self.progress.step == 3:
            raise Killed
        return before(self)

    monkeypatch.setattr(job.Job, "step", step)
    with pytest.raises(Killed):
        train(llama, tmp_path / "killed", "train.save_every=3")
    monkeypatch.setattr(job.Job, "step", before)
    train(llama, tmp_path / "killed", "train.save_every=3", resume=True)
    assert len(set(graphs)) == 3
    assert exact(tmp_path / "killed") == exact(tmp_path / "whole")


def test_where_memory_runs_out_recording_ends_before_micro_batches_are_halved(
    llama: Small, usual: Path, graphs: list[Noted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, calls = Noted.nlls, []

    def nlls(self: Noted, batch: Batch) -> torch.Tensor | None:
        calls.append(batch.ids.shape)
        if len(calls) == 9:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return before(self, batch)

    monkeypatch.setattr(Noted, "nlls", nlls)
    shown = train(llama, tmp_path / "run")
    assert "micro-batches are not CUDA graphs any more: memory is needed; the result is the same" in shown
    assert "continuing with micro-batches" not in shown and len(calls) == 9
    expected = [row["loss"] for row in steps(usual)]
    assert [row["loss"] for row in steps(tmp_path / "run")] == pytest.approx(expected, abs=1e-5)


def test_a_recording_that_fails_later_is_told_once_and_the_run_goes_on(
    llama: Small, usual: Path, graphs: list[Noted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Noted._record

    def record(self: Noted, shape: Shape, given: torch.Tensor) -> Pass:
        if self.num_recorded == 2:
            raise RuntimeError("a kernel was not loaded")
        return before(self, shape, given)

    monkeypatch.setattr(Noted, "_record", record)
    shown = train(llama, tmp_path / "run")
    assert shown.count("not CUDA graphs any more: recording fails (RuntimeError: a kernel was not loaded)") == 1
    expected = [row["loss"] for row in steps(usual)]
    assert [row["loss"] for row in steps(tmp_path / "run")] == pytest.approx(expected, abs=1e-5)
