"""The ways to train in their order, for each device, model and wish; and that a plan and a run choose from one list."""

import itertools
from dataclasses import replace

import pytest
import torch

from falconer import runtime
from falconer.errors import FalconerError
from falconer.train.ways import Asked, Facts, Mode, check_compute, ways

BF16 = runtime.Precision(torch.bfloat16, "it supports bf16")
FP32 = runtime.Precision(torch.float32, "the CPU has no amx_bf16")


def facts(**changes):
    gpu = {
        "why_generic": "", "why_fast": "the model has Falcon-7B's layout", "precision": BF16, "has_fp8": True,
        "on_gpu": True, "dequantised_gib": 12.0, "free_gib": 0.0,
    }  # fmt: skip
    return Facts(**(gpu | changes))


def asked(**changes):
    return Asked(**({"path": "auto", "compute": "auto", "memory": "auto"} | changes))


def order(asked, facts):
    return [(mode.memory, mode.caches_weights) for mode in ways(asked, facts)]


CACHED, FAST, LEAN = ("fast", True), ("fast", False), ("lean", False)
CPU = {"on_gpu": False, "has_fp8": False, "precision": FP32}


@pytest.mark.parametrize(
    ("wish", "found", "expected"),
    [
        ({}, {}, [CACHED, FAST, LEAN]),
        ({"memory": "fast"}, {}, [CACHED, FAST]),
        ({"memory": "lean"}, {}, [LEAN]),
        # Whole weights have nothing to be dequantised from; the generic path doesn't cache.
        ({}, {"dequantised_gib": 0.0}, [FAST, LEAN]),
        ({}, {"why_generic": "it knows Falcon, not llama"}, [FAST, FAST, FAST, LEAN, LEAN]),
        ({"path": "generic"}, {}, [FAST, LEAN]),
        # A CPU is not tried: what it has memory for is asked, and it never gets lean by itself.
        ({}, CPU | {"free_gib": 49.0}, [CACHED, FAST]),
        ({}, CPU | {"free_gib": 47.0}, [FAST]),
        ({"memory": "lean"}, CPU | {"free_gib": 49.0}, [LEAN]),
    ],
)
def test_the_order(wish, found, expected):
    assert order(asked(**wish), facts(**found)) == expected


@pytest.mark.parametrize(
    ("wish", "found", "path", "compute"),
    [
        ({}, {}, "fast", "fp8"),
        ({"compute": "bf16"}, {}, "fast", "bf16"),
        ({}, {"has_fp8": False}, "fast", "bf16"),
        ({"path": "generic"}, {}, "generic", "bf16"),
        ({}, {"why_generic": "it has biases"}, "generic", "bf16"),
        ({}, CPU, "fast", "fp32"),
        # Asked for in vain: left to the device here, refused by check_compute.
        ({"compute": "fp8"}, CPU, "fast", "fp32"),
        ({"compute": "bf16"}, CPU, "fast", "fp32"),
    ],
)
def test_path_and_precision_are_the_same_in_every_way(wish, found, path, compute):
    for mode in ways(asked(**wish), facts(**found)):
        assert (mode.path, mode.compute) == (path, compute)
        assert all((mode.why_path, mode.why_compute, mode.why_memory))


def test_reasons():
    auto = ways(asked(), facts())[0]
    assert auto.lines() == (
        "fast: the model has Falcon-7B's layout", "fp8: this GPU supports FP8, and the base is frozen",
        "fast (dequantised weights are cached): it fits",
    )  # fmt: skip
    generic = ways(asked(path="generic", compute="bf16", memory="lean"), facts())[0]
    assert generic.lines() == ("generic: as configured", "bf16: as configured", "lean: as configured")
    other = ways(asked(), facts(why_generic="it has biases"))[0]
    assert (other.why_path, other.why_compute) == ("it has biases", "FP8 matmuls need the fast path")


def test_there_is_always_a_way_and_never_a_slower_one_before_a_faster():
    wishes = itertools.product(("auto", "generic"), ("auto", "bf16", "fp8"), ("auto", "fast", "lean"))
    for wish in wishes:
        for why, fp8, gpu, size in itertools.product(("", "no"), (False, True), (False, True), (0.0, 1.0, 1e6)):
            found = order(Asked(*wish), facts(why_generic=why, has_fp8=fp8, on_gpu=gpu, dequantised_gib=size))
            assert found and found == sorted(found, key=[CACHED, FAST, LEAN].index)


STOCK, OWN, GRAPHS = (False, False), (True, False), (True, True)


@pytest.mark.parametrize(
    ("wish", "found", "expected"),
    [
        ({}, {}, [("fast", *GRAPHS), ("fast", *STOCK), ("fast", *OWN), ("lean", *STOCK), ("lean", *OWN)]),
        ({"memory": "fast"}, {}, [("fast", *GRAPHS), ("fast", *STOCK), ("fast", *OWN)]),
        # Blocks that are computed again, and 4-bit weights, are not recorded.
        ({"memory": "lean"}, {}, [("lean", *STOCK), ("lean", *OWN)]),
        ({}, {"is_quantised": True}, [("fast", *STOCK), ("fast", *OWN), ("lean", *STOCK), ("lean", *OWN)]),
        # Where its own forward pass was asked for, in fp32, and on a CPU a model keeps its layers.
        ({"path": "generic"}, {}, [("fast", *STOCK), ("lean", *STOCK)]),
        ({}, {"precision": FP32}, [("fast", *STOCK), ("lean", *STOCK)]),
        ({}, CPU | {"free_gib": 49.0}, [("fast", *STOCK)]),
    ],
)
def test_own_layers_are_recorded_or_for_what_does_not_fit_with_stock_layers(wish, found, expected):
    modes = ways(asked(**wish), facts(**({"why_generic": "it knows Falcon, not llama"} | found)))
    assert [(mode.memory, mode.own_layers, mode.recorded) for mode in modes] == expected
    assert all(("own layers" in mode.lines()[2]) == mode.own_layers for mode in modes)
    assert all(mode.why_recorded for mode in modes if mode.recorded)


def test_the_line_on_the_path_says_whether_micro_batches_are_recorded():
    generic = facts(why_generic="it has biases")
    first = ways(asked(), generic)[0].lines()[0]
    assert first == "generic: it has biases; micro-batches are CUDA graphs: it is tried first"
    lean = ways(asked(memory="lean"), generic)[0]
    assert lean.lines()[0].endswith("not CUDA graphs: with train.memory=lean blocks are computed again")
    quantised = ways(asked(), replace(generic, is_quantised=True))[0]
    assert quantised.lines()[0].endswith("not CUDA graphs: the base is in 4 bits")
    assert all("CUDA graph" not in mode.lines()[0] for mode in ways(asked(), facts()))


def test_what_run_json_keeps_has_the_names_of_the_first_version():
    record = Mode("fast", "a", "fp8", "b", "lean", "c", True).record()
    assert record == {
        "path": "falcon", "why_path": "a", "compute": "fp8", "why_compute": "b", "memory": "lean", "why_memory": "c",
        "holds_weights": True, "own_layers": False, "recorded": False, "why_recorded": "",
    }  # fmt: skip
    assert Mode("generic", "a", "fp32", "b", "fast", "c", False).record()["path"] == "generic"


@pytest.mark.parametrize(
    ("wish", "found", "message"),
    [
        ({"compute": "fp8"}, {"has_fp8": False}, "train.compute=fp8, but an old card does not support FP8.*8.9"),
        ({"compute": "fp8", "path": "generic"}, {}, "needs the fast path, which can't be used: as configured"),
        ({"compute": "fp8"}, {"why_generic": "it has biases"}, "which can't be used: it has biases"),
        ({"compute": "bf16"}, CPU, "but the precision is fp32 .the CPU has no amx_bf16.*model.dtype=bf16"),
    ],
)
def test_a_precision_that_can_not_be_had_is_refused_with_the_reason(wish, found, message):
    with pytest.raises(FalconerError, match=message):
        check_compute(asked(**wish), facts(**found), "an old card")


@pytest.mark.parametrize("compute", ["auto", "bf16", "fp8"])
def test_what_can_be_had_is_not_refused(compute):
    check_compute(asked(compute=compute), facts(), "an H100")
