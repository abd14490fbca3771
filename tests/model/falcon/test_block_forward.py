"""One block's forward pass in its two parts, against the model's own layer in float64."""

import pytest
import torch

from falcon_tiny import LAYOUTS, tiny_falcon
from falconer.kernels import reference
from falconer.kernels.formats import Fp8, Layout, Want
from falconer.model.falcon.block_forward import branches, inner_values
from falconer.model.falcon.layout import LINEARS, backbone_of
from falconer.model.falcon.train_pass import FastPath, _adapters
from kernel_rule import error

pytestmark = pytest.mark.usefixtures("one_thread")
LAYOUT = Layout(2, 9)


def passes_of(model, rows=None, **settings):
    settings = {"fp8": False, "memory": "fast", "cache_weights": False} | settings
    path = FastPath(backbone_of(model), reference, **settings)
    return path, path.passes(18, LAYOUT, rows, [_adapters(block) for block in path.blocks])


def through(path, at, hidden):
    inner = inner_values(at, reference.add_layer_norms(hidden, (), at.block.norms, path.shared.want(plain=False)))
    return inner, branches(at, inner)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("targets", ["query_key_value", "all-linear"])
def test_a_block_adds_what_the_models_own_layer_adds(targets, layout):
    model = tiny_falcon(torch.float64, targets=targets, layout=layout)
    path, passes = passes_of(model)
    hidden = torch.randn(18, model.config.hidden_size, dtype=torch.float64)
    _, added = through(path, passes[0], hidden)
    layer, rotary = backbone_of(model).h[0], backbone_of(model).rotary_emb
    wide, positions = hidden.view(2, 9, -1), torch.arange(9).expand(2, 9)
    mask = torch.full((9, 9), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    with torch.no_grad():
        expected = layer(
            wide, alibi=None, attention_mask=mask, position_ids=positions, position_embeddings=rotary(wide, positions)
        )
    expected = expected[0] if isinstance(expected, tuple) else expected
    assert error(hidden + added[0] + added[1], expected.view(18, -1)) < 1e-7


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_last_blocks_mlp_and_dense_layer_work_on_the_wanted_rows_alone(layout):
    model, rows = tiny_falcon(torch.float64, targets="all-linear", layout=layout), torch.tensor([3, 8, 17])
    (path, every), (_, some) = passes_of(model), passes_of(model, rows)
    hidden = torch.randn(18, model.config.hidden_size, dtype=torch.float64)
    assert some[0].rows is None and some[-1].rows is rows
    inner, whole = through(path, every[-1], hidden)
    inner_some, chosen = through(path, some[-1], hidden)
    for one, other in zip(chosen, whole, strict=True):
        torch.testing.assert_close(one, other[rows])
    assert len(inner_some.pre) == 3 and torch.equal(inner_some.qkv, inner.qkv)


def test_what_lean_memory_makes_again_has_no_part_of_what_comes_behind():
    model = tiny_falcon(torch.float64, targets="all-linear")
    path, passes = passes_of(model)
    hidden = torch.randn(18, model.config.hidden_size, dtype=torch.float64)
    inner = inner_values(passes[0], reference.add_layer_norms(hidden, (), passes[0].block.norms, Want.PLAIN))
    assert set(inner.low) == {"query_key_value", "dense_h_to_4h"}
    branches(passes[0], inner)
    assert set(inner.low) == set(LINEARS)


def test_operands_have_the_form_of_the_base_matmuls():
    model = tiny_falcon(torch.float32)
    x = torch.randn(4, 64)
    in_fp8, plain = passes_of(model, fp8=True)[0].shared, passes_of(model)[0].shared
    assert isinstance(in_fp8.operand(x), Fp8) and plain.operand(x) is x
    assert (in_fp8.want(plain=False), in_fp8.want(plain=True)) == (Want.FP8, Want.BOTH)
    assert plain.want(plain=False) is plain.want(plain=True) is Want.PLAIN


def test_dropout_is_drawn_in_the_models_own_order():
    model = tiny_falcon(torch.float32, targets="all-linear", dropout=0.3)
    torch.manual_seed(4)
    _, passes = passes_of(model)
    torch.manual_seed(4)
    for at in passes:
        assert tuple(at.dropouts) == LINEARS
        for name in LINEARS:
            width = at.adapters[name].a.shape[1]
            expected = reference.sample_dropout(18, width, 0.3, torch.device("cpu"))
            assert torch.equal(at.dropouts[name].mask, expected.mask)
