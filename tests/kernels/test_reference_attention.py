"""Attention in plain torch: groups are apart from each other, and each is multi-query attention."""

import pytest
import torch

from falconer.kernels import reference_attention as reference
from falconer.kernels.formats import Branches, Heads, Layout

LAYOUTS = [Layout(3, 10), Layout(3, 15, torch.tensor([0, 5, 20, 30], dtype=torch.int32))]


@pytest.mark.parametrize("layout", LAYOUTS, ids=["equal", "packed"])
def test_each_group_is_attention_with_one_key_head(layout):
    heads, one = Heads(3, 6, 32), Heads(1, 2, 32)
    qkv, grad = torch.randn(30, heads.width, dtype=torch.float64), torch.randn(30, 6 * 32, dtype=torch.float64)
    attended = reference.attention(qkv, layout, heads)
    grads = reference.attention_grad(grad, qkv, attended, layout, heads)
    for group in range(3):
        part, part_grad = (x.chunk(3, dim=1)[group].contiguous() for x in (qkv, grad))
        alone = reference.attention(part, layout, one)
        torch.testing.assert_close(attended.out.chunk(3, dim=1)[group], alone.out)
        expected = reference.attention_grad(part_grad, part, alone, layout, one)
        for found, other in zip(grads, expected, strict=True):
            torch.testing.assert_close(found.chunk(3, dim=1)[group], other)


def test_a_mask_decides_which_tokens_are_seen():
    heads = Heads(1, 2, 32)
    qkv, grad = torch.randn(20, heads.width, dtype=torch.float64), torch.randn(20, 64, dtype=torch.float64)
    sees = torch.rand(2, 1, 10, 10) < 0.6
    sees = (sees & torch.ones(10, 10, dtype=torch.bool).tril()) | torch.eye(10, dtype=torch.bool)
    mask = torch.zeros(sees.shape, dtype=torch.float64).masked_fill(~sees, -torch.inf)
    layout = Layout(2, 10, mask=mask)
    attended = reference.attention(qkv, layout, heads)
    by_head = qkv.view(2, 10, 4, 32).transpose(1, 2).requires_grad_()
    q, k, v = by_head[:, :2], by_head[:, 2:3], by_head[:, 3:]
    mixed = ((q @ k.transpose(2, 3) / 32**0.5 + mask).softmax(3) @ v).transpose(1, 2).reshape(20, 64)
    torch.testing.assert_close(attended.out, mixed)
    (expected,) = torch.autograd.grad((mixed * grad).sum(), by_head)
    found = reference.attention_grad(grad, qkv, attended, layout, heads)
    torch.testing.assert_close(torch.cat(found, dim=1), expected.transpose(1, 2).flatten(0, 1))


def test_branches_read_the_keys_of_their_group_alone():
    heads, one = Heads(2, 6, 32), Heads(1, 3, 32)
    qkv, cache, own = torch.randn(2, heads.width), torch.randn(40, 2, 2, 32), torch.randn(5, 2, 2, 32)
    column = torch.tensor
    branches = Branches(2, 1, None, column([0, 20]), column([20, 7]), column([0, 3]), column([3, 2]))
    found = reference.branch_attention(qkv, cache, own, branches, heads)
    for group in range(2):
        part = qkv.chunk(2, dim=1)[group].contiguous()
        alone = reference.branch_attention(part, cache[:, [group]], own[:, [group]], branches, one)
        torch.testing.assert_close(found.chunk(2, dim=1)[group], alone)


def test_a_projection_by_groups_is_a_view():
    qkv = torch.randn(4, Heads(2, 6, 32).width)
    groups = reference.grouped(qkv, Heads(2, 6, 32))
    assert groups.shape == (4, 2, 5, 32) and groups.data_ptr() == qkv.data_ptr()
    assert torch.equal(groups[:, 1, -1], qkv[:, -32:]), "the last head is the last group's value"
