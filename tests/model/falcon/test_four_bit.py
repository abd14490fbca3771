"""How 4-bit weights are multiplied where nobody goes back, and why."""

from types import SimpleNamespace

import pytest
import torch

from falcon_tiny import tiny_falcon
from falconer.model.falcon import four_bit as products
from falconer.model.falcon.four_bit import choose_products, inference_path, row_kernel_for
from rows_on_cpu import PlainRowKernel

pytestmark = pytest.mark.usefixtures("one_thread")


def test_dequantised_weights_are_cached_where_they_fit(monkeypatch):
    assert choose_products(tiny_falcon(torch.float32), is_few=False).why == "unquantised weights"
    model = tiny_falcon(torch.float32, nf4=True)
    chosen, mib = choose_products(model, is_few=False), products.dequantised_gib(model) * 1024
    assert 0.05 < mib < 10
    assert chosen.cache_weights and chosen.why == f"4-bit weights, dequantised once and cached: {mib:.1f} MiB fit"
    assert choose_products(model, is_few=True) == chosen, "a CPU has no kernel for few rows"
    monkeypatch.setattr(products, "MOST_OF_FREE", {"cpu": 0.0})
    chosen = choose_products(model, is_few=False)
    assert (
        not chosen.cache_weights
        and chosen.why == f"4-bit weights, dequantised for each matmul: {mib:.1f} MiB do not fit"
    )
    assert choose_products(model, is_few=True, is_cached=True).cache_weights, "what is there needs no more room"


@pytest.mark.parametrize("cached", [False, True])
def test_the_path_multiplies_as_chosen(cached):
    path = inference_path(tiny_falcon(torch.float32, nf4=True), products.Products(cached, fused=False, why=""))
    assert not path.fp8
    for block in path.blocks:
        assert all((linear._weight is not None) == cached for linear in block.frozen.values())


KERNEL = PlainRowKernel()
BY_CUDA = "with the fused kernel (the CUDA kernel)"
BY_TRITON = "with the fused kernel (Triton's, because the CUDA kernel can't be used: NVRTC is not installed)"


@pytest.mark.parametrize(("kernel", "free", "fused_us", "whole_us", "few", "many"), [
    (KERNEL, 60, 45, 130, (False, True, f"the fused kernel: 45 us per block {BY_CUDA}, 130 us dequantised"),
     (True, True, "12.0 GiB fit; up to 16 rows by the fused kernel: 45 us")),
    (KERNEL, 10, 45, 400, (False, True, "45 us per block"), (False, True, "12.0 GiB do not fit; up to 16 rows")),
    (KERNEL, 60, 150, 130, (True, False, f"12.0 GiB fit; 150 us per block {BY_CUDA}, 130 us dequantised"),
     (True, False, "12.0 GiB fit; 150 us")),
    (None, 60, 50, 130, (False, True, f"the fused kernel: 50 us per block {BY_TRITON}, 130 us"),
     (True, False, "cached: 12.0 GiB fit")),
    (None, 60, 150, 130, (True, False, f"12.0 GiB fit; 150 us per block {BY_TRITON}, 130 us dequantised"),
     (True, False, "cached: 12.0 GiB fit")),
    (None, 10, 150, 400, (False, True, "150 us per block"), (False, False, "do not fit")),
    (None, 10, 500, 400, (False, False, "12.0 GiB do not fit; 500 us per block"), (False, False, "do not fit")),
])  # fmt: skip
def test_what_a_gpus_times_lead_to(kernel, free, fused_us, whole_us, few, many, monkeypatch):
    def block_s(backbone, *, cache_weights, fused, row_kernel=None):
        assert not cache_weights or free > 20, "what doesn't fit is not timed"
        assert row_kernel is (kernel if fused else None)
        return (fused_us if fused else whole_us) / 1e6

    monkeypatch.setattr(products, "_block_s", block_s)
    monkeypatch.setattr(products, "row_kernel_for", lambda _: (kernel, "" if kernel else "NVRTC is not installed"))
    monkeypatch.setattr(products, "dequantised_gib", lambda _: 12.0)
    monkeypatch.setattr(products.runtime, "free_gib", lambda _: free)
    weight = SimpleNamespace(device=torch.device("cuda"))
    backbone = SimpleNamespace(word_embeddings=SimpleNamespace(weight=weight))
    monkeypatch.setattr(products, "backbone_of", lambda _: backbone)
    for is_few, expected in ((True, few), (False, many)):
        chosen = choose_products(None, is_few=is_few)
        assert (chosen.cache_weights, chosen.fused) == expected[:2] and expected[2] in chosen.why
        assert chosen.row_kernel is (kernel if chosen.fused else None)


def test_why_there_is_no_cuda_kernel_is_said():
    kernel, reason = row_kernel_for(tiny_falcon(torch.float32, nf4=True))
    assert kernel is None and reason == "this torch is built without CUDA"


def test_a_block_is_timed_as_it_is_multiplied(monkeypatch):
    """Two launches for its four products."""
    kernel, recordings = PlainRowKernel(), []

    def recorded(step, device):
        step()
        recordings.append(device)
        return SimpleNamespace(replay=step)

    monkeypatch.setattr(products, "recorded", recorded)
    monkeypatch.setattr(products, "TIMED_RUNS", 1)
    backbone = products.backbone_of(tiny_falcon(torch.float32, nf4=True))
    assert products._block_s(backbone, cache_weights=False, fused=True, row_kernel=kernel) > 0
    assert recordings and kernel.launches == [2, 2] * 2


@pytest.mark.gpu
def test_a_gpu_is_asked_how_few_rows_are_fastest():
    model = tiny_falcon(
        torch.bfloat16, nf4=True, device="cuda", hidden_size=1024, num_attention_heads=16, ffn_hidden_size=4096
    )
    few, many = choose_products(model, is_few=True), choose_products(model, is_few=False)
    assert "us per block with the fused kernel (the CUDA kernel)" in few.why and many.cache_weights
