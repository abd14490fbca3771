"""The doctor tells the truth: on this machine, and on machines where something is missing."""

import io
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from falconer import doctor, runtime
from falconer.errors import FalconerError
from falconer.kernels import nf4_rows, reference


def by_subject(findings):
    return {finding.subject: finding for finding in findings}


@pytest.fixture(scope="module")
def examined():
    console = Console(file=io.StringIO(), width=200)
    return doctor.examine(console), console.file.getvalue()


def test_this_machine_can_train(examined):
    healthy, text = examined
    assert healthy, text
    assert "FAIL" not in text


@pytest.mark.parametrize(
    "what",
    [
        "CPU", "memory", "GPU", "torch", "device", "precision", "fast path (plain torch)", "NF4", "hub", "disk",
        "GiB free",
    ],
)  # fmt: skip
def test_every_line_is_there(examined, what):
    assert what in examined[1]


def test_a_narrow_terminal_loses_nothing():
    console = Console(file=io.StringIO(), width=50)
    for finding in doctor.surroundings():
        console.print(doctor._line(finding))
    assert "HF_HUB_OFFLINE" in console.file.getvalue()


def test_the_precision_is_the_one_that_a_run_takes():
    device = runtime.pick_device("auto")
    precision = runtime.pick_precision("auto", device)
    found = by_subject(doctor.computation())
    assert found["precision"].found == f"{precision.name}: {precision.reason}"
    assert found["device"].found == str(device)


def test_what_is_embedded_is_loaded():
    found = by_subject(doctor.embedded())
    assert "10,240 tokens" in found["falcon-mini"].found
    assert "2,344 train" in found["persona-chat-sample"].found


def test_a_damaged_package_fails(monkeypatch):
    def missing(name):
        raise FalconerError("Model 'falcon-mini' was not found.")

    monkeypatch.setattr(doctor, "load_tokenizer", missing)
    (finding,) = doctor.embedded()
    assert finding.verdict == "FAIL"
    assert finding.advice


def test_4_bit_layers_are_really_tried(monkeypatch):
    error, has_gradient = doctor._nf4_error(torch.device("cpu"), torch.float32)
    assert 0.01 < error < doctor.MOST_NF4_ERROR
    assert has_gradient
    monkeypatch.setattr(doctor, "_nf4_error", lambda device, dtype: (0.9, True))
    assert doctor._try_nf4(torch.device("cpu"), torch.float32).verdict == "FAIL"
    monkeypatch.setattr(doctor, "_nf4_error", lambda device, dtype: (0.1, False))
    assert "no gradient" in doctor._try_nf4(torch.device("cpu"), torch.float32).found

    def broken(device, dtype):
        raise RuntimeError("libcudart.so.13 is missing\nlong story")

    monkeypatch.setattr(doctor, "_nf4_error", broken)
    finding = doctor._try_nf4(torch.device("cpu"), torch.float32)
    assert finding.verdict == "FAIL"
    assert finding.found.endswith("libcudart.so.13 is missing")
    assert "model.quantization=none" in finding.advice


def test_versions_out_of_range_fail_with_the_command_that_mends_it(monkeypatch):
    required = ["torch>=99", "nothing-of-that-name<2", "numpy>=1", 'pytest>=99; extra == "test"']
    monkeypatch.setattr(metadata, "requires", lambda name: required)
    found = by_subject(doctor.versions())
    assert {name: finding.verdict for name, finding in found.items()} == {
        "torch": "FAIL", "nothing-of-that-name": "FAIL", "numpy": "OK",
    }  # fmt: skip
    assert found["torch"].advice == 'pip install "torch>=99"'
    assert "not installed" in found["nothing-of-that-name"].found


def test_falconer_without_installation(monkeypatch):
    def unknown(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", unknown)
    (finding,) = doctor.versions()
    assert finding.verdict == "warn"


@pytest.mark.parametrize(("free_gib", "verdict"), [(0.05, "FAIL"), (1.0, "warn"), (50, "OK")])
def test_disk(monkeypatch, free_gib, verdict):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=free_gib * 2**30))
    assert by_subject(doctor.surroundings())["disk"].verdict == verdict


@pytest.mark.parametrize(
    ("offline", "reachable", "verdict", "words"),
    [(True, False, "OK", "HF_HUB_OFFLINE"), (False, True, "OK", "reachable"), (False, False, "warn", "not reachable")],
)
def test_hub(monkeypatch, offline, reachable, verdict, words):
    monkeypatch.setattr(runtime, "is_offline", lambda: offline)
    monkeypatch.setattr(runtime, "hub_is_reachable", lambda: reachable)
    finding = by_subject(doctor.surroundings())["hub"]
    assert (finding.verdict, words in finding.found) == (verdict, True)


def test_little_memory(monkeypatch):
    monkeypatch.setattr(runtime, "memory_gib", lambda device: (0.5, 4.0))
    assert by_subject(doctor.hardware())["memory"].verdict == "warn"


@pytest.mark.parametrize(("major", "verdict"), [(9, "OK"), (7, "warn")])
def test_gpus(monkeypatch, major, verdict):
    gpu = SimpleNamespace(name="NVIDIA H200", major=major, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: gpu)
    monkeypatch.setattr(runtime, "memory_gib", lambda device: (130.0, 139.8))
    monkeypatch.setattr(runtime, "nvidia_driver", lambda: "580.1")
    found = by_subject(doctor._gpus())
    assert [finding.verdict for finding in found.values()] == [verdict, verdict]
    assert "NVIDIA H200, 130.0 of 139.8 GiB free" in found["GPU 1"].found
    assert "driver 580.1" in found["GPU 1"].found


def test_a_gpu_that_torch_does_not_see(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(runtime, "nvidia_driver", lambda: "580.1")
    (finding,) = doctor._gpus()
    assert finding.verdict == "warn"
    assert "CUDA build of torch" in finding.advice


def test_the_driver_is_asked_of_nvidia_smi(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 580.159.04\necho 580.159.04\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert runtime.nvidia_driver() == "580.159.04"
    program.write_text("#!/bin/sh\nexit 9\n")
    assert runtime.nvidia_driver() == ""


def test_falcons_own_pass_is_really_tried(monkeypatch):
    device, precision = torch.device("cpu"), runtime.Precision(torch.float32, "")
    finding = doctor._try_fast_path(device, precision)
    assert finding.verdict == "OK" and "fast path (plain torch): its logits differ by" in finding.found
    attention = reference.attention

    def wrong(*arguments):
        attended = attention(*arguments)
        return type(attended)(attended.out.flip(0), attended.logsumexp)

    monkeypatch.setattr(reference, "attention", wrong)
    finding = doctor._try_fast_path(device, precision)
    assert finding.verdict == "FAIL" and "model.path=generic" in finding.advice


@pytest.mark.parametrize(("wrong", "verdict"), [(0, "OK"), (0.1, "FAIL")])
def test_the_kernel_for_few_rows_is_really_tried(monkeypatch, wrong, verdict):
    def products(self, pairs):
        return [reference.nf4_product(x, weight) * (1 + wrong) for x, weight in pairs]

    stand_in = type("", (), {"__init__": lambda *_: None, "products": products})
    monkeypatch.setattr(nf4_rows, "RowProducts", stand_in)
    found = doctor._try_few_rows(torch.device("cpu"))
    assert (found.verdict, found.subject) == (verdict, "few rows") and "its result differs by" in found.found


def test_why_the_kernel_for_few_rows_is_missing_is_said():
    found = doctor._try_few_rows(torch.device("cpu"))
    assert found.verdict == "warn" and found.found.endswith("can't be used: this torch is built without CUDA")
    assert found.advice == "Replies from 4-bit weights are generated more slowly, by Triton's."


@pytest.mark.gpu
def test_the_kernel_for_few_rows_works_on_a_gpu():
    found = doctor._try_few_rows(torch.device("cuda", 0))
    assert found.verdict == "OK", found.found
