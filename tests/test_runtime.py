"""What a machine is said to be, and what follows from it."""

import random
import resource
import time

import numpy as np
import pytest
import torch

from falconer import runtime
from falconer.errors import FalconerError

CPU = torch.device("cpu")


def test_a_gpu_that_is_not_there_is_refused_and_auto_takes_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runtime.pick_device("auto") == runtime.pick_device("cpu") == CPU
    with pytest.raises(FalconerError, match=r"model\.device=cuda, but torch sees no GPU\. Use model\.device=auto"):
        runtime.pick_device("cuda")


@pytest.mark.parametrize(
    ("given", "first"), [(None, "0"), ("", ""), ("3", "3"), ("2,0", "2"), ("GPU-8a,GPU-9b", "GPU-8a")]
)
def test_another_process_gets_the_first_gpu_of_this_one(monkeypatch: pytest.MonkeyPatch, given, first) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    monkeypatch.setenv("KEPT", "yes")
    found = runtime.one_gpu_environment(ADDED="too")
    assert (found["CUDA_VISIBLE_DEVICES"], found["KEPT"], found["ADDED"]) == (first, "yes", "too")


def test_each_rank_gets_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert runtime.pick_device("auto") == torch.device("cuda", 3)
    assert runtime.pick_device("cpu") == CPU


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_a_gpu_computes_in_bf16_where_it_has_the_units(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    found = runtime.pick_precision("auto", torch.device("cuda", 0))
    assert found.dtype == dtype and f"{capability[0]}.{capability[1]}" in found.reason
    assert runtime.has_fp8(torch.device("cuda", 0)) == (capability >= (8, 9))


@pytest.mark.parametrize(("amx", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_cpu_computes_in_bf16_with_amx_alone(monkeypatch: pytest.MonkeyPatch, amx: bool, dtype: torch.dtype) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx, "avx512_bf16": True})
    assert runtime.pick_precision("auto", CPU).dtype == dtype
    assert not runtime.has_fp8(CPU)


@pytest.mark.parametrize(("asked", "name", "autocast"), [("bf16", "bf16", torch.bfloat16), ("fp32", "fp32", None)])
def test_a_precision_that_was_asked_for_is_taken(asked: str, name: str, autocast: torch.dtype | None) -> None:
    found = runtime.pick_precision(asked, CPU)
    assert (found.name, found.autocast, found.reason) == (name, autocast, "as configured")


def test_seeding_fixes_every_generator() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    runtime.seed_everything(5)
    first = draw()
    runtime.seed_everything(5)
    assert draw() == first
    runtime.seed_everything(6)
    assert not set(draw()) & set(first)


def test_memory_is_in_gib() -> None:
    free, total = runtime.memory_gib(CPU)
    assert 0 < free <= total < 1e5
    assert 0.01 < runtime.peak_memory_gib(CPU) < total
    assert runtime.free_gib(CPU) == pytest.approx(free, rel=0.5)


def test_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert runtime.num_cores() == 3
    monkeypatch.delattr("os.sched_getaffinity")
    assert runtime.num_cores() == 64


def test_the_median_is_of_the_timed_runs_alone() -> None:
    durations = iter([0.2, 0.0, 0.03, 0.0])
    calls = []

    def step() -> None:
        calls.append(1)
        time.sleep(next(durations))

    # The warm-up takes the 0.2 seconds; of 0, 0.03 and 0 the median is 0.
    assert runtime.median_s(step, CPU, runs=3, warmup=1) < 0.02
    assert len(calls) == 4


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("true", True), ("ON", True), ("0", False), ("", False)])
def test_the_hub_is_not_asked_where_the_user_says_offline(
    monkeypatch: pytest.MonkeyPatch, value: str, offline: bool
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert runtime.is_offline() == offline
    if offline:
        assert not runtime.hub_is_reachable()


def test_the_environment_names_versions_and_hardware() -> None:
    found = runtime.environment(CPU)
    assert set(runtime.RECORDED_PACKAGES) <= set(found)
    assert found["torch"] == torch.__version__
    assert "threads" in found["device"]
    assert runtime.metadata_version("no-such-package-of-ours") == "not installed"


def test_a_c_compiler_is_found_by_its_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(runtime.shutil, "which", lambda name: "/usr/bin/clang" if name == "clang" else None)
    assert runtime.has_c_compiler()
    monkeypatch.setattr(runtime.shutil, "which", lambda name: None)
    assert not runtime.has_c_compiler()


def test_open_files_are_allowed_as_far_as_the_system_goes() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 300), hard))
        runtime.allow_open_files(400)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(400, hard)
        runtime.allow_open_files(350)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(400, hard), "never lowered"
        if hard != resource.RLIM_INFINITY:
            runtime.allow_open_files(hard + 1)
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FALCONER_API_KEY", "abc")
    assert runtime.api_key() == "abc"
    monkeypatch.delenv("FALCONER_API_KEY")
    assert runtime.api_key() is None


@pytest.mark.parametrize(
    ("given", "expected"), [("/var/cache", "/var/cache"), ("", "/home/me/.cache"), ("a", "/home/me/.cache")]
)
def test_compiled_kernels_are_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, given, expected) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert str(runtime.kernel_cache()) == f"{expected}/falconer/kernels"
