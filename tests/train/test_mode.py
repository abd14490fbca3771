"""On which path, in which numbers and in which memory does a run train, and what does it do when memory runs out?"""

import io

import pytest
import torch
from rich.console import Console

from falcon_tiny import tiny_falcon
from falconer import runtime
from falconer.errors import FalconerError
from falconer.model.falcon.attach import fast_path_of
from falconer.train import loop, mode
from falconer.train.mode import choose_mode
from small_runs import steps

CPU, GPU = torch.device("cpu"), torch.device("cuda")
BF16 = runtime.Precision(torch.bfloat16, "it has bf16 units")
FP32 = runtime.Precision(torch.float32, "the CPU has no amx_bf16")


class FakeGpu:
    """A GPU's answers: how a way of training is put into place, and which ways run out of memory."""

    def __init__(self, monkeypatch, fp8=True, fits=()):
        self.tried = []
        self.fits = fits
        monkeypatch.setattr(runtime, "has_fp8", lambda device: fp8)
        monkeypatch.setattr(runtime, "device_name", lambda device: "an old card")
        monkeypatch.setattr(mode, "_put", self.put)
        monkeypatch.setattr(mode, "_peak_gib", self.peak)
        monkeypatch.setattr(mode, "free_memory", lambda device: None)

    def put(self, model, *, falcon, fp8, memory, holds):
        self.tried.append((memory, holds))

    def peak(self, try_batch, device):
        try_batch()
        if self.tried[-1] not in self.fits:
            raise torch.OutOfMemoryError
        return 7.25


def chosen(device, precision=BF16, nf4=True, **settings):
    settings = {"path": "auto", "compute": "auto", "memory": "auto"} | settings
    model = tiny_falcon(torch.float32, nf4=nf4)
    return choose_mode(model, precision, device, try_batch=lambda: None, num_tokens=4096, **settings)


@pytest.mark.parametrize(
    ("fits", "memory", "holds"),
    [
        ([("fast", True), ("fast", False), ("lean", False)], "fast", True),
        ([("fast", False), ("lean", False)], "fast", False),
        ([("lean", False)], "lean", False),
    ],
)
def test_a_gpu_takes_the_fastest_that_fits(monkeypatch, fits, memory, holds):
    gpu = FakeGpu(monkeypatch, fits=fits)
    found = chosen(GPU)
    assert (found.memory, found.holds_weights, found.compute, found.path) == (memory, holds, "fp8", "falcon")
    assert "7.2 GiB at the peak of 4,096 tokens, measured" in found.why_memory
    assert gpu.tried == [("fast", True), ("fast", False), ("lean", False)][: len(gpu.tried)]
    assert gpu.tried[-1] == (memory, holds)


def test_where_nothing_fits_its_user_is_told_what_to_lower(monkeypatch):
    FakeGpu(monkeypatch, fits=[])
    with pytest.raises(FalconerError, match=r"4,096 tokens\) does not fit.*Lower train.micro_tokens below 4096"):
        chosen(GPU)
    with pytest.raises(FalconerError, match="or set train.memory=auto"):
        chosen(GPU, memory="fast")


def test_what_was_asked_for_is_tried_alone(monkeypatch):
    everything = [("fast", True), ("fast", False), ("lean", False)]
    gpu = FakeGpu(monkeypatch, fits=everything)
    assert chosen(GPU, memory="lean").memory == "lean" and gpu.tried == [("lean", False)]
    found = chosen(GPU, compute="bf16", path="generic")
    assert (found.path, found.why_path, found.compute) == ("generic", "as asked for", "bf16")
    assert gpu.tried[-1] == ("fast", False), "the generic path has no unpacked weights to keep"


def test_fp8_only_where_the_hardware_and_the_path_have_it(monkeypatch):
    FakeGpu(monkeypatch, fp8=False, fits=[("fast", True)])
    assert chosen(GPU).compute == "bf16"
    with pytest.raises(FalconerError, match="an old card has no FP8 units.*compute capability 8.9"):
        chosen(GPU, compute="fp8")
    FakeGpu(monkeypatch, fp8=True, fits=[("fast", True), ("fast", False)])
    assert chosen(GPU, path="generic").compute == "bf16"
    with pytest.raises(FalconerError, match="needs the falcon path, and it can't be taken: as asked for"):
        chosen(GPU, compute="fp8", path="generic")


def test_a_cpu_keeps_unpacked_weights_where_they_are_small():
    found = chosen(CPU, FP32)
    assert (found.path, found.compute, found.memory, found.holds_weights) == ("falcon", "fp32", "fast", True)
    assert chosen(CPU, FP32, memory="lean").holds_weights is False
    assert "dequantised weights are cached" in found.lines()[2]


def test_whole_weights_are_not_said_to_be_dequantised(monkeypatch):
    on_cpu = chosen(CPU, FP32, nf4=False)
    FakeGpu(monkeypatch, fits=[("fast", False)])
    for found in (on_cpu, chosen(GPU, nf4=False)):
        assert (found.memory, found.holds_weights) == ("fast", False)
        assert "dequantised" not in found.lines()[2]


def test_a_cpu_does_not_fill_its_memory_with_unpacked_weights(monkeypatch):
    monkeypatch.setattr(runtime, "memory_gib", lambda device: (1e-6, 1.0))
    model = tiny_falcon(torch.float32, nf4=True)
    found = choose_mode(
        model, FP32, CPU, path="auto", compute="auto", memory="auto", try_batch=lambda: None, num_tokens=8
    )
    assert not found.holds_weights and fast_path_of(model) is not None


def test_bf16_products_want_bf16_arithmetic():
    with pytest.raises(FalconerError, match=r"train.compute=bf16, but the arithmetic is fp32 .*model.dtype=bf16"):
        chosen(CPU, FP32, compute="bf16")


@pytest.fixture
def small_memory(monkeypatch):
    """Let a pass run out of memory if its batch has more tokens than `limit`; the test sets that."""
    limits = {"limit": 0, "count": 0}
    before = loop.nll_sum

    def watched(model, batch, **options):
        if torch.is_grad_enabled() and batch.ids.size > limits["limit"]:
            limits["count"] += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return before(model, batch, **options)

    monkeypatch.setattr(loop, "nll_sum", watched)
    return limits


def test_a_step_that_runs_out_of_memory_goes_on_with_half_the_micro_batch(small, finished, tmp_path, small_memory):
    small_memory["limit"] = 300
    shown = io.StringIO()
    config = small.config()
    loop.train(config, tmp_path / "run", resume=False, console=Console(file=shown, width=200))
    assert shown.getvalue().count("out of memory: from here on 200 tokens at a time; the step stays the same") == 1
    assert small_memory["count"] == 1
    expected, found = steps(finished), steps(tmp_path / "run")
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in expected], abs=1e-5)
    assert [row["tokens"] for row in found] == [row["tokens"] for row in expected]


def test_running_out_of_memory_a_second_time_ends_the_run_and_saves_it(small, tmp_path, small_memory):
    small_memory["limit"] = 60
    with pytest.raises(FalconerError, match="ran out of memory at step 1, with 200 tokens too.*train.memory=lean"):
        small.run(tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "last").is_dir()
