import pytest
import torch

from falconer.kernels import fused, reference
from falconer.kernels.formats import Heads, Want
from kernel_rule import exactly, hold_operands, hold_to_rule

EXACT = Want.PLAIN


def angles(place, head_size, longest=50):
    turns = torch.outer(torch.arange(longest), 10000 ** -(torch.arange(0, head_size, 2) / head_size))
    positions = torch.randint(longest, (37,), device=place.device)
    return turns.cos().to(place.device), turns.sin().to(place.device), positions


@pytest.mark.parametrize("rank", [0, 4, 16, 24])
@pytest.mark.parametrize("heads", [Heads(1, 1, 64), Heads(1, 11, 64), Heads(3, 12, 32), Heads(2, 8, 128)], ids=str)
def test_rotation_with_and_without_lora(place, rank, heads):
    cos, sin, positions = angles(place, heads.size)
    qkv = place.random(37, heads.width)
    low, b = (place.random(37, rank), place.random(heads.width, rank)) if rank else (None, None)
    ours, plain, exact = qkv.clone(), qkv.clone(), qkv.double()
    fused.rotate_(ours, low, b, cos, sin, positions, heads)
    reference.rotate_(plain, low, b, cos, sin, positions, heads)
    reference.rotate_(exact, *exactly((low, b, cos, sin)), positions, heads)
    hold_to_rule(ours, plain, exact)
    if not rank:
        before, after = (x.view(37, heads.num_groups, -1, heads.size) for x in (qkv, ours))
        assert torch.equal(after[:, :, -1], before[:, :, -1]), "the values are not rotated"
        assert (after[:, :, :-1] != before[:, :, :-1]).any(dim=3).float().mean() > 0.9, "all other heads are"


@pytest.mark.parametrize("want", [EXACT, Want.FP8, Want.BOTH], ids=str)
@pytest.mark.parametrize("shape", [(1, 2, 64), (1, 5, 64), (3, 12, 32), (2, 8, 128)], ids=str)
def test_the_way_back(place, want, shape):
    num_groups, num_queries, size = shape
    cos, sin, positions = angles(place, size)
    heads = [place.random(37, number, size) for number in (num_queries, num_groups, num_groups)]
    hold_operands(
        fused.rotate_grad(*heads, cos, sin, positions, want), reference.rotate_grad(*heads, cos, sin, positions, want),
        reference.rotate_grad(*exactly([*heads, cos, sin]), positions, EXACT),
    )  # fmt: skip


@pytest.mark.parametrize("heads", [Heads(1, 2, 64), Heads(2, 6, 64)], ids=str)
def test_the_way_back_undoes_the_rotation(place, heads):
    cos, sin, positions = angles(place, 64)
    qkv = place.random(37, heads.width)
    turned = qkv.clone()
    fused.rotate_(turned, None, None, cos, sin, positions, heads)
    groups = turned.view(37, heads.num_groups, -1, 64)
    parts = groups.split([heads.queries_each, 1, 1], 2)
    back = fused.rotate_grad(*(part.flatten(1, 2).contiguous() for part in parts), cos, sin, positions, EXACT)
    torch.testing.assert_close(back, qkv, rtol=2e-2, atol=2e-2 if place.device == "cuda" else 1e-5)
