"""The forward pass without a way back, against the untouched model in float64."""

import pytest
import torch

from falcon_tiny import tiny_falcon
from falconer.kernels import reference
from falconer.kernels.formats import Layout
from falconer.model.falcon.infer_pass import Forward
from falconer.model.falcon.layout import backbone_of
from falconer.model.falcon.train_pass import FastPath
from kernel_rule import error

pytestmark = pytest.mark.usefixtures("one_thread")
IDS = torch.arange(300, 360).view(3, 20)


def forward_of(model, **settings):
    path = FastPath(
        backbone_of(model), reference, **({"fp8": False, "memory": "fast", "cache_weights": False} | settings)
    )
    return Forward(path, model.get_output_embeddings())


def causal(forward, layout):
    return lambda number, qkv_MN: reference.attention(qkv_MN, layout, forward.head_size).out


@pytest.mark.parametrize("targets", ["query_key_value", "all-linear"])
def test_logits_are_the_models_own(targets):
    model = tiny_falcon(torch.float64, targets=targets, dropout=0.5).eval()
    forward = forward_of(model)
    positions = torch.arange(20).repeat(3)
    hidden = forward.hidden_states(IDS.flatten(), positions, causal(forward, Layout(3, 20)))
    with torch.no_grad():
        expected = model(input_ids=IDS).logits.flatten(0, 1)
    assert error(forward.logits(hidden), expected) < 1e-12


def test_wanted_rows_alone_are_the_same_rows():
    model = tiny_falcon(torch.float64, targets="all-linear").eval()
    forward, positions, rows = forward_of(model), torch.arange(20).repeat(3), torch.tensor([4, 19, 40])
    attend = causal(forward, Layout(3, 20))
    every = forward.hidden_states(IDS.flatten(), positions, attend)
    torch.testing.assert_close(forward.hidden_states(IDS.flatten(), positions, attend, rows), every[rows])


def test_keys_and_values_are_views_and_a_cache_has_room_for_them():
    model = tiny_falcon(torch.float32).eval()
    forward = forward_of(model)
    cache = forward.new_cache(7)
    assert cache.shape == (forward.num_layers, 7, 2, forward.head_size) and not cache.any()
    assert cache.numel() * cache.itemsize == 7 * forward.token_bytes
    qkv = torch.randn(5, (model.config.num_attention_heads + 2) * forward.head_size)
    found = forward.key_values(qkv)
    assert found.data_ptr() == qkv[:, -2 * forward.head_size :].data_ptr()
    assert torch.equal(found.flatten(1), qkv[:, -2 * forward.head_size :])


def test_fp8_is_not_exact_enough_to_choose_tokens_by():
    with pytest.raises(AssertionError, match="in the weights' own format"):
        forward_of(tiny_falcon(torch.float32), fp8=True)
