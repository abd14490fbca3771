import math

import pytest
import torch

from falconer.kernels import fused, reference
from falconer.kernels.formats import Heads, Layout
from kernel_rule import Place, error, exactly, hold_to_rule

HEAD = 64
# One key/value head, as Falcon-7B; several, as Falcon-40B; several of 128, as Falcon-11B.
HEADS = [Heads(1, 1, HEAD), Heads(1, 3, HEAD), Heads(2, 6, HEAD), Heads(3, 3, 32), Heads(2, 4, 128)]


def written_out(qkv, starts, heads):
    """Causal attention by its definition, a dialogue and a group at a time; float64."""
    groups = qkv.view(len(qkv), heads.num_groups, -1, heads.size)
    outs = []
    for start, end in zip(starts, starts[1:], strict=False):
        q, k, v = groups[start:end, :, :-2], groups[start:end, :, -2], groups[start:end, :, -1]
        scores = torch.einsum("mgqh,ngh->gqmn", q, k) / math.sqrt(heads.size)
        future = torch.ones(end - start, end - start, dtype=torch.bool, device=qkv.device).triu(1)
        outs.append(torch.einsum("gqmn,ngh->mgqh", scores.masked_fill(future, -math.inf).softmax(-1), v))
    return torch.cat(outs).flatten(1)


def gradient_of(parts):
    """The gradient of the projection from those of queries, keys and values."""
    q, k, v = (part.double() for part in parts)
    return torch.cat([q.view(*k.shape[:2], -1, k.shape[2]), k.unsqueeze(2), v.unsqueeze(2)], dim=2).flatten(1)


def packed(place, lengths):
    starts = [sum(lengths[:index]) for index in range(len(lengths) + 1)]
    return starts, Layout(len(lengths), max(lengths), torch.tensor(starts, dtype=torch.int32, device=place.device))


LENGTHS = [[70, 1, 129, 30], [64, 64], [5]]


@pytest.mark.parametrize(
    ("heads", "lengths", "num_programs"),
    [
        *((heads, lengths, 2048) for heads in HEADS[:2] for lengths in LENGTHS),
        *((heads, LENGTHS[0], 2048) for heads in HEADS[2:]), (HEADS[2], LENGTHS[0], 1), (HEADS[2], LENGTHS[1], 2048),
    ],
    ids=str,
)  # fmt: skip
def test_both_ways_against_the_definition(place, heads, lengths, num_programs, monkeypatch):
    # The heads of a group are one program's, or divided among several.
    monkeypatch.setattr("falconer.kernels.attention.NUM_PROGRAMS", num_programs)
    starts, layout = packed(place, lengths)
    qkv, grad = place.random(starts[-1], heads.width), place.random(starts[-1], heads.num_queries * heads.size)
    exact_qkv = qkv.double().requires_grad_()
    exact = written_out(exact_qkv, starts, heads)
    (exact_grad,) = torch.autograd.grad(exact, exact_qkv, grad.double())
    # Plain torch in the same format: the definition again.
    plain_qkv = qkv.clone().requires_grad_()
    plain = written_out(plain_qkv, starts, heads)
    (plain_grad,) = torch.autograd.grad(plain, plain_qkv, grad)
    for ops in (fused, reference) if place.device == "cpu" else (fused,):
        attended = ops.attention(qkv, layout, heads)
        hold_to_rule(attended.out, plain, exact)
        parts = ops.attention_grad(grad, qkv, attended, layout, heads)
        assert [part.shape[1] for part in parts] == [heads.num_queries, heads.num_groups, heads.num_groups]
        hold_to_rule(gradient_of(parts), plain_grad, exact_grad)


def test_rows_of_one_length_need_no_borders(place):
    layout, heads = Layout(3, 40), Heads(1, 2, HEAD)
    qkv, grad = place.random(120, 4 * HEAD), place.random(120, 2 * HEAD)
    bordered = packed(place, [40] * 3)[1]
    attended = fused.attention(qkv, layout, heads)
    assert torch.equal(attended.out, fused.attention(qkv, bordered, heads).out)
    for one, other in zip(
        fused.attention_grad(grad, qkv, attended, layout, heads),
        fused.attention_grad(grad, qkv, attended, bordered, heads),
        strict=True,
    ):
        assert torch.equal(one, other)


@pytest.mark.gpu
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_many_launches_on_a_gpu_are_right_and_give_the_same_bits(heads, monkeypatch):
    """A race would show as changing bits; new memory is filled with NaN, so a read of what nobody wrote shows too."""
    lengths = [70, 1, 129, 30]
    place = Place("cuda", torch.bfloat16)
    starts, layout = packed(place, lengths)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    try:
        for seed in range(50):
            torch.manual_seed(seed)
            qkv, grad = place.random(starts[-1], heads.width), place.random(starts[-1], heads.num_queries * heads.size)
            exact_qkv, plain_qkv = qkv.double().requires_grad_(), qkv.clone().requires_grad_()
            exact, plain = written_out(exact_qkv, starts, heads), written_out(plain_qkv, starts, heads)
            (exact_grad,) = torch.autograd.grad(exact, exact_qkv, grad.double())
            (plain_grad,) = torch.autograd.grad(plain, plain_qkv, grad)
            outs, grads = [], []
            for _ in range(2):
                attended = fused.attention(qkv, layout, heads)
                outs.append(attended.out)
                grads.append(gradient_of(fused.attention_grad(grad, qkv, attended, layout, heads)))
            hold_to_rule(outs[0], plain, exact)
            hold_to_rule(grads[0], plain_grad, exact_grad)
            assert torch.equal(*outs) and torch.equal(*grads)
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_cpu_takes_the_flash_kernel_and_no_other(monkeypatch):
    """The math path holds every score; scaled_dot_product_attention may choose it, so it is not asked."""

    def refuse(*_, **__):
        raise AssertionError("torch was left to choose")

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", refuse)
    qkv, heads = torch.randn(64, 4 * HEAD), Heads(1, 2, HEAD)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        attended = reference.attention(qkv, Layout(2, 32), heads)
        reference.attention_grad(torch.randn(64, 2 * HEAD), qkv, attended, Layout(2, 32), heads)
    names = {event.key for event in profile.key_averages()}
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in names
    assert not {name for name in names if "math" in name or "softmax" in name}


@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_attention_in_float64_is_exact(heads):
    qkv = torch.randn(90, heads.width, dtype=torch.float64)
    out = reference.attention(qkv, Layout(3, 30), heads).out
    assert error(out, written_out(exactly(qkv), [0, 30, 60, 90], heads)) < 1e-12
