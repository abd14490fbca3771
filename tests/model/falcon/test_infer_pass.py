"""The forward pass without a way back, against the untouched model in float64."""

import pytest
import torch

from falcon_tiny import LAYOUTS, tiny_falcon
from falconer.kernels import reference
from falconer.kernels.formats import Layout
from falconer.model.falcon.infer_pass import Forward
from falconer.model.falcon.layout import backbone_of, linears_of
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
    return lambda number, qkv_MN: reference.attention(qkv_MN, layout, forward.heads).out


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("targets", ["query_key_value", "all-linear"])
def test_logits_are_the_models_own(targets, layout):
    model = tiny_falcon(torch.float64, targets=targets, dropout=0.5, layout=layout).eval()
    forward = forward_of(model)
    positions = torch.arange(20).repeat(3)
    hidden = forward.hidden_states(IDS.flatten(), positions, causal(forward, Layout(3, 20)))
    with torch.no_grad():
        expected = model(input_ids=IDS).logits.flatten(0, 1)
    assert error(forward.logits(hidden), expected) < 1e-12


@pytest.mark.parametrize("layout", LAYOUTS)
def test_wanted_rows_alone_are_the_same_rows(layout):
    model = tiny_falcon(torch.float64, targets="all-linear", layout=layout).eval()
    forward, positions, rows = forward_of(model), torch.arange(20).repeat(3), torch.tensor([4, 19, 40])
    attend = causal(forward, Layout(3, 20))
    every = forward.hidden_states(IDS.flatten(), positions, attend)
    torch.testing.assert_close(forward.hidden_states(IDS.flatten(), positions, attend, rows), every[rows])


@pytest.mark.parametrize(("layout", "num_groups"), [("7b", 1), ("40b", 2), ("11b", 2)])
def test_keys_and_values_are_views_and_a_cache_has_room_for_them(layout, num_groups):
    model = tiny_falcon(torch.float32, layout=layout).eval()
    forward, size = forward_of(model), model.config.head_dim
    cache = forward.new_cache(7)
    assert cache.shape == (forward.num_layers, 7, num_groups, 2, size) and not cache.any()
    assert cache.numel() * cache.itemsize == 7 * forward.token_bytes
    qkv = torch.randn(5, linears_of(backbone_of(model).h[0])["query_key_value"].base_layer.out_features)
    found = forward.key_values(qkv)
    # The first group's key stands behind its queries.
    queries = model.config.num_attention_heads // num_groups
    assert found.data_ptr() == qkv[:, queries * size :].data_ptr()
    expected = [part[:, -2 * size :] for part in qkv.chunk(num_groups, dim=1)]
    assert torch.equal(found.flatten(1), torch.cat(expected, dim=1))


def test_fp8_is_not_exact_enough_to_choose_tokens_by():
    with pytest.raises(AssertionError, match="in the weights' own format"):
        forward_of(tiny_falcon(torch.float32), fp8=True)
