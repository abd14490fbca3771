import pytest
import torch

from falconer.kernels import fused, reference
from falconer.kernels.formats import Want
from kernel_rule import exactly, hold_operands, hold_to_rule

EXACT = Want.PLAIN


def angles(place, head_size, longest=50):
    turns = torch.outer(torch.arange(longest), 10000 ** -(torch.arange(0, head_size, 2) / head_size))
    positions = torch.randint(longest, (37,), device=place.device)
    return turns.cos().to(place.device), turns.sin().to(place.device), positions


@pytest.mark.parametrize("rank", [0, 4, 16, 24])
@pytest.mark.parametrize("num_heads", [3, 13])
def test_rotation_with_and_without_lora(place, rank, num_heads):
    cos, sin, positions = angles(place, 64)
    qkv = place.random(37, num_heads * 64)
    low, b = (place.random(37, rank), place.random(num_heads * 64, rank)) if rank else (None, None)
    ours, plain, exact = qkv.clone(), qkv.clone(), qkv.double()
    fused.rotate_(ours, low, b, cos, sin, positions, 64)
    reference.rotate_(plain, low, b, cos, sin, positions, 64)
    reference.rotate_(exact, *exactly((low, b, cos, sin)), positions, 64)
    hold_to_rule(ours, plain, exact)
    if not rank:
        assert torch.equal(ours[:, -64:], qkv[:, -64:]), "the value is not rotated"


@pytest.mark.parametrize("want", [EXACT, Want.FP8, Want.BOTH], ids=str)
@pytest.mark.parametrize("num_queries", [2, 5])
def test_the_way_back(place, want, num_queries):
    cos, sin, positions = angles(place, 64)
    heads = [place.random(37, number, 64) for number in (num_queries, 1, 1)]
    hold_operands(
        fused.rotate_grad(*heads, cos, sin, positions, want), reference.rotate_grad(*heads, cos, sin, positions, want),
        reference.rotate_grad(*exactly([*heads, cos, sin]), positions, EXACT),
    )  # fmt: skip


def test_the_way_back_undoes_the_rotation(place):
    cos, sin, positions = angles(place, 64)
    qkv = place.random(37, 4 * 64)
    turned = qkv.clone()
    fused.rotate_(turned, None, None, cos, sin, positions, 64)
    heads = turned.view(37, 4, 64)
    back = fused.rotate_grad(*(part.contiguous() for part in heads.split([2, 1, 1], 1)), cos, sin, positions, EXACT)
    torch.testing.assert_close(back, qkv, rtol=2e-2, atol=2e-2 if place.device == "cuda" else 1e-5)
