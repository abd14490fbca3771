"""Which path generates, how 4-bit weights are multiplied there, and that a model gets back what it had."""

from types import SimpleNamespace

import pytest
import torch
from falconer.model.generate.replies import generation_path
from transformers import AutoModelForCausalLM

from falcon_tiny import VOCAB, awkward_batch, tiny_falcon
from falconer.kernels.formats import NF4_ROWS
from falconer.model.falcon import four_bit as products
from falconer.model.falcon.attach import enable, fast_path_of
from falconer.model.falcon.four_bit import choose_products, inference_path, on_fast_path, why_not_falcon
from falconer.model.likelihood import target_nll
from tiny import config_of

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_path_and_why():
    model = tiny_falcon(torch.float32)
    assert generation_path(model, None) == ("falcon", "whole weights")
    assert generation_path(model, torch.float32)[0] == "falcon"
    reason = "it computes in the weights' float32, not in bfloat16"
    assert generation_path(model, torch.bfloat16) == ("generic", reason)
    assert why_not_falcon(model, None, 2048) == ""
    assert why_not_falcon(model, None, 2049) == "it knows 2048 positions, and 2049 are needed"
    other = AutoModelForCausalLM.from_config(config_of("gpt2", VOCAB, 11))
    assert generation_path(other, None) == ("generic", "it knows Falcon, not gpt2")


def test_unpacked_4_bit_weights_are_kept_where_they_fit(monkeypatch):
    model = tiny_falcon(torch.float32, nf4=True)
    assert choose_products(model, 64).hold
    assert generation_path(model, None) == ("falcon", "4-bit weights, unpacked once: 0.0 GiB fit")
    monkeypatch.setattr(products, "MOST_OF_FREE", {"cpu": 0.0})
    assert choose_products(model, 64).hold, "chosen once for a model"
    model = tiny_falcon(torch.float32, nf4=True)
    assert generation_path(model, None) == ("falcon", "4-bit weights, unpacked for each product: 0.0 GiB do not fit")
    assert not choose_products(model, 1).fused, "a CPU has no such kernel"


@pytest.mark.parametrize(
    ("free", "fused_us", "whole_us", "expected"),
    [
        (60, 50, 130, (False, True, "multiplied as they are: 50 us a block as they are, 130 us unpacked")),
        (60, 150, 130, (True, False, "12.0 GiB fit; 150 us a block as they are, 130 us unpacked")),
        (10, 150, 400, (False, True, "150 us a block as they are, 400 us unpacked")),
        (10, 500, 400, (False, False, "12.0 GiB do not fit; 500 us a block as they are, 400 us unpacked")),
    ],
)
def test_what_a_gpus_times_lead_to(free, fused_us, whole_us, expected, monkeypatch):
    def block_s(backbone, *, hold, fused):
        assert not hold or free > 20, "what doesn't fit is not timed"
        return (fused_us if fused else whole_us) / 1e6

    monkeypatch.setattr(products, "_block_s", block_s)
    monkeypatch.setattr(products, "unpacked_gib", lambda _: 12.0)
    monkeypatch.setattr(products.runtime, "free_gib", lambda _: free)
    weight = SimpleNamespace(device=torch.device("cuda"))
    backbone = SimpleNamespace(word_embeddings=SimpleNamespace(weight=weight))
    few = products._choose_products(None, backbone, is_few=True)
    assert (few.hold, few.fused) == expected[:2] and expected[2] in few.why
    many = products._choose_products(None, backbone, is_few=False)
    assert (many.hold, many.fused) == (free > 20, False)


def test_on_the_fast_path_for_a_while():
    model, batch = tiny_falcon(torch.float32), awkward_batch()
    model.eval()
    with torch.no_grad():
        generic = target_nll(model, batch, head_on_targets=True)
        with on_fast_path(model, None):
            path = fast_path_of(model)
            assert path is not None and inference_path(model, 64) is path
            torch.testing.assert_close(target_nll(model, batch, head_on_targets=True), generic, rtol=1e-4, atol=1e-5)
            with on_fast_path(model, None):
                assert fast_path_of(model) is path
        assert fast_path_of(model) is None
        with on_fast_path(model, torch.bfloat16):
            assert fast_path_of(model) is None


def test_a_path_that_trains_comes_back_and_fp8_is_not_used_meanwhile():
    model = tiny_falcon(torch.float32)
    trains = enable(model, fp8=True)
    with pytest.raises(RuntimeError, match="a fault"), on_fast_path(model, None):
        meanwhile = fast_path_of(model)
        assert meanwhile is not None and meanwhile is not trains and not meanwhile.fp8
        raise RuntimeError("a fault")
    assert fast_path_of(model) is trains


@pytest.mark.gpu
def test_a_gpu_is_asked_how_few_rows_are_fastest():
    model = tiny_falcon(
        torch.bfloat16, nf4=True, device="cuda", hidden_size=1024, num_attention_heads=16, ffn_hidden_size=4096
    )
    few, many = choose_products(model, NF4_ROWS), choose_products(model, NF4_ROWS + 1)
    assert "us a block as they are" in few.why and many.hold and not many.fused
