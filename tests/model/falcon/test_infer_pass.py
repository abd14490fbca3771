"""The forward pass without a way back, against the untouched model in float64."""

import pytest
import torch

from falcon_tiny import GPU_SHAPES, LAYOUTS, tiny_falcon
from falconer.kernels import reference
from falconer.kernels.formats import NF4_ROWS, Layout
from falconer.kernels.nf4_rows import RowProducts
from falconer.model.bnb import bnb
from falconer.model.falcon.infer_pass import Forward
from falconer.model.falcon.layout import backbone_of, linears_of
from falconer.model.falcon.train_pass import FastPath
from kernel_rule import error, hold_to_rule
from rows_on_cpu import PlainRowKernel

pytestmark = pytest.mark.usefixtures("one_thread")
IDS = torch.arange(300, 360).view(3, 20)


def forward_of(model, **settings):
    path = FastPath(
        backbone_of(model), reference, **({"fp8": False, "memory": "fast", "cache_weights": False} | settings)
    )
    return Forward(path, model.get_output_embeddings())


def causal(forward, layout):
    return lambda number, qkv_MN: forward.ops.attention(qkv_MN, layout, forward.heads).out


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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("targets", ["query_key_value", "all-linear"])
@pytest.mark.parametrize("num_rows", [5, 20])
def test_few_rows_take_two_launches_a_block_and_say_the_same(targets, layout, num_rows):
    """With adapters on every layer, and with the rows that the last block is asked for alone."""
    model = tiny_falcon(torch.float32, targets=targets, nf4=True, layout=layout).eval()
    kernel, ids, positions = PlainRowKernel(), IDS.flatten()[:num_rows], torch.arange(num_rows)
    plain, fused = forward_of(model), forward_of(model, fused=True, row_kernel=kernel)
    attend = causal(plain, Layout(1, num_rows))
    for rows in (None, torch.tensor([num_rows - 1, 1])):
        kernel.launches.clear()
        found = fused.hidden_states(ids, positions, attend, rows)
        torch.testing.assert_close(found, plain.hidden_states(ids, positions, attend, rows), rtol=1e-5, atol=1e-5)
        few, block = num_rows <= NF4_ROWS, 2 * fused.num_layers
        # What is left of many rows in the last block is few.
        assert kernel.launches == ([2] * block if few else [] if rows is None else [1, 2])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_with_adapters_of_their_own_go_on_as_before(layout):
    model = tiny_falcon(torch.float32, targets="all-linear", nf4=True, layout=layout).eval()
    paths = [
        FastPath(backbone_of(model), reference, fp8=False, memory="fast", cache_weights=False, **settings)
        for settings in ({}, {"fused": True, "row_kernel": PlainRowKernel()})
    ]
    plain, fused = (Forward(path, model.get_output_embeddings(), ("default",)) for path in paths)
    ids, positions, adapters = IDS[0, :6], torch.arange(6), torch.tensor([0, 1, 1, 0, 1, 0])
    found, expected = (
        one.hidden_states(ids, positions, causal(one, Layout(1, 6)), adapters_M=adapters) for one in (fused, plain)
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("num_rows", [1, 3, 8, 13, NF4_ROWS])
def test_the_cuda_kernels_logits_are_as_near_to_float64_as_plain_ones(layout, num_rows):
    from falconer.kernels import fused

    shape = GPU_SHAPES[layout] | {"num_hidden_layers": 2, "rank": 16}
    model = tiny_falcon(torch.bfloat16, targets="all-linear", nf4=True, device="cuda", layout=layout, **shape).eval()
    kernel = RowProducts(torch.device("cuda", 0), True, None)
    ids, positions = torch.arange(300, 300 + num_rows).cuda(), torch.arange(num_rows).cuda()
    found = []
    for settings in ({"fused": True, "row_kernel": kernel}, {}):
        path = FastPath(backbone_of(model), fused, fp8=False, memory="fast", cache_weights=False, **settings)
        forward = Forward(path, model.get_output_embeddings())
        found.append(forward.logits(forward.hidden_states(ids, positions, causal(forward, Layout(1, num_rows)))))
    same = tiny_falcon(torch.float64, targets="all-linear", nf4=False, layout=layout, **shape).eval()
    with torch.no_grad():
        for mine, layer in zip(backbone_of(same).h, backbone_of(model).h, strict=True):
            for name, module in linears_of(layer).items():
                state = module.base_layer.weight
                whole = bnb.functional.dequantize_4bit(state.data, state.quant_state).double().cpu()
                linears_of(mine)[name].base_layer.weight.copy_(whole)
        exact = same(input_ids=ids.cpu()[None]).logits[0].cuda()
    hold_to_rule(found[0], found[1], exact)
