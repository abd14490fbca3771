"""Which way to train does a device get: the first that it can take and has the memory for."""

from dataclasses import replace

import pytest
import torch

from falcon_tiny import tiny_falcon
from falconer import runtime
from falconer.errors import FalconerError
from falconer.model.falcon.attach import fast_path_of
from falconer.model.layers.replace import has_own_layers
from falconer.train import mode
from falconer.train.mode import choose_mode
from falconer.train.ways import Asked, Mode

CPU, GPU = torch.device("cpu"), torch.device("cuda")
BF16 = runtime.Precision(torch.bfloat16, "it supports bf16")
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

    def put(self, model, way, precision):
        self.tried.append((way.memory, way.caches_weights))
        return True

    def peak(self, try_batch, device):
        try_batch()
        if self.tried[-1] not in self.fits:
            raise torch.OutOfMemoryError
        return 7.25


def chosen(device, precision=BF16, nf4=True, **settings):
    settings = {"path": "auto", "compute": "auto", "memory": "auto"} | settings
    model = tiny_falcon(torch.float32, nf4=nf4)
    asked = Asked(**settings)
    return choose_mode(model, precision, device, asked, try_batch=lambda: None, num_tokens=lambda: 4096)


@pytest.mark.parametrize(
    ("fits", "memory", "caches"),
    [
        ([("fast", True), ("fast", False), ("lean", False)], "fast", True),
        ([("fast", False), ("lean", False)], "fast", False),
        ([("lean", False)], "lean", False),
    ],
)
def test_a_gpu_takes_the_fastest_that_fits(monkeypatch, fits, memory, caches):
    gpu = FakeGpu(monkeypatch, fits=fits)
    found = chosen(GPU)
    assert (found.memory, found.caches_weights, found.compute, found.path) == (memory, caches, "fp8", "fast")
    assert "measured peak of 7.2 GiB with 4,096 tokens" in found.why_memory
    assert gpu.tried == [("fast", True), ("fast", False), ("lean", False)][: len(gpu.tried)]
    assert gpu.tried[-1] == (memory, caches)


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
    assert (found.path, found.why_path, found.compute) == ("generic", "as configured", "bf16")
    assert gpu.tried[-1] == ("fast", False), "the generic path has no dequantised weights to cache"


def test_fp8_only_where_the_hardware_and_the_path_have_it(monkeypatch):
    FakeGpu(monkeypatch, fp8=False, fits=[("fast", True)])
    assert chosen(GPU).compute == "bf16"
    with pytest.raises(FalconerError, match="an old card does not support FP8.*compute capability 8.9"):
        chosen(GPU, compute="fp8")
    FakeGpu(monkeypatch, fp8=True, fits=[("fast", True), ("fast", False)])
    assert chosen(GPU, path="generic").compute == "bf16"
    with pytest.raises(FalconerError, match="needs the fast path, which can't be used: as configured"):
        chosen(GPU, compute="fp8", path="generic")


def test_a_cpu_caches_dequantised_weights_where_they_are_small():
    found = chosen(CPU, FP32)
    assert (found.path, found.compute, found.memory, found.caches_weights) == ("fast", "fp32", "fast", True)
    assert chosen(CPU, FP32, memory="lean").caches_weights is False
    assert "dequantised weights are cached" in found.lines()[2]


def test_whole_weights_are_not_said_to_be_dequantised(monkeypatch):
    on_cpu = chosen(CPU, FP32, nf4=False)
    FakeGpu(monkeypatch, fits=[("fast", False)])
    for found in (on_cpu, chosen(GPU, nf4=False)):
        assert (found.memory, found.caches_weights) == ("fast", False)
        assert "dequantised" not in found.lines()[2]


def test_a_cpu_does_not_fill_its_memory_with_dequantised_weights(monkeypatch):
    monkeypatch.setattr(runtime, "memory_gib", lambda device: (1e-6, 1.0))
    model = tiny_falcon(torch.float32, nf4=True)
    found = choose_mode(model, FP32, CPU, Asked("auto", "auto", "auto"), try_batch=lambda: None, num_tokens=lambda: 8)
    assert not found.caches_weights and fast_path_of(model) is not None


def test_bf16_matmuls_want_bf16_as_the_precision():
    with pytest.raises(FalconerError, match=r"train.compute=bf16, but the precision is fp32 .*model.dtype=bf16"):
        chosen(CPU, FP32, compute="bf16")


def test_a_mode_with_own_layers_replaces_them_if_the_model_allows_it(monkeypatch):
    monkeypatch.setattr(runtime, "has_c_compiler", lambda: False)
    model = tiny_falcon(torch.bfloat16, nf4=False).train()
    stock = Mode("generic", "", "bf16", "", "lean", "", caches_weights=False)
    own = replace(stock, own_layers=True)
    assert mode._put(model, stock, BF16) and not has_own_layers(model)
    assert mode._put(model, own, BF16) and has_own_layers(model)
    assert mode._put(model, replace(stock, path="fast"), BF16) and not has_own_layers(model)
    mode._put(model, own, BF16)
    model.base_model.model.transformer.ln_f.float()
    assert not mode._put(model, own, BF16) and not has_own_layers(model)


def test_a_mode_whose_layers_can_not_be_replaced_is_left_out(monkeypatch):
    gpu = FakeGpu(monkeypatch, fp8=False, fits=[("lean", False)])
    monkeypatch.setattr(mode, "why_generic", lambda model: "another layout")
    monkeypatch.setattr(
        mode, "_put", lambda model, way, precision: gpu.put(model, way, precision) and not way.own_layers
    )
    found = chosen(GPU, nf4=False)
    assert (found.memory, found.own_layers) == ("lean", False)
    assert gpu.tried == [("fast", False), ("fast", False), ("fast", False), ("lean", False)]
    assert not found.recorded and found.why_recorded == "its layers can't be falconer's own"


class Graphs:
    """Answers of what records micro-batches, one after the other; an error is raised."""

    def __init__(self, *answers):
        self.answers, self.forgotten = list(answers), 0

    def record(self):
        answer = self.answers.pop(0)
        if isinstance(answer, str):
            return answer
        raise answer

    def forget(self):
        self.forgotten += 1


def chosen_on_the_generic_path(monkeypatch, graphs, fits, **settings):
    gpu = FakeGpu(monkeypatch, fp8=False, fits=fits)
    monkeypatch.setattr(mode, "why_generic", lambda model: "another layout")
    gpu.ways = []
    monkeypatch.setattr(
        mode, "_put", lambda model, way, precision: gpu.ways.append(way) or gpu.put(model, way, precision)
    )
    found = choose_mode(
        tiny_falcon(torch.float32, nf4=False), BF16, GPU, Asked("auto", "auto", "auto"), try_batch=lambda: None,
        num_tokens=lambda: 8, record=graphs.record, forget=graphs.forget,
    )  # fmt: skip
    return gpu, found


def test_micro_batches_are_recorded_where_a_trial_shows_that_nothing_changes(monkeypatch):
    graphs = Graphs("")
    gpu, found = chosen_on_the_generic_path(monkeypatch, graphs, [("fast", False)])
    assert found.recorded and found.own_layers and len(gpu.ways) == 1 and not graphs.forgotten
    assert "micro-batches are CUDA graphs: a micro-batch gave the same loss" in found.lines()[0]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("a recorded pass gives another loss or gradient", "a recorded pass gives another loss or gradient"),
        (torch.OutOfMemoryError(), "memory does not suffice for recording"),
    ],
)
def test_where_recording_does_not_work_stock_layers_are_next_and_it_is_said_why(monkeypatch, answer, why):
    graphs = Graphs(answer)
    gpu, found = chosen_on_the_generic_path(monkeypatch, graphs, [("fast", False)])
    assert (found.recorded, found.own_layers, found.memory, found.why_recorded) == (False, False, "fast", why)
    assert [way.recorded for way in gpu.ways] == [True, False] and graphs.forgotten == 1
    assert found.lines()[0].endswith(f"not CUDA graphs: {why}")
    assert found.record()["why_recorded"] == why


def test_a_gpu_that_is_too_small_for_any_fast_mode_says_what_recording_lacked(monkeypatch):
    _, found = chosen_on_the_generic_path(monkeypatch, Graphs(), [("lean", False)])
    assert found.memory == "lean" and found.why_recorded == "memory does not suffice for recording"
