import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given
from hypothesis import strategies as st

from falconer.kernels import fused, reference
from falconer.kernels.formats import Dropout, Norm, Want
from falconer.kernels.lora import lowbias32
from kernel_rule import exactly, hold_to_rule

SEED = 2**31 - 7


@pytest.mark.parametrize("rank", [4, 16, 24])
@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("is_normed", [False, True])
@pytest.mark.parametrize("shape", [(37, 192), (130, 320)])
def test_thin_products(place, rank, share, is_normed, shape):
    num_rows, width = shape
    x = place.random(num_rows, width)
    if is_normed:
        norm = Norm(place.random(width), place.random(width), 1e-5)
        x, _ = reference.add_layer_norm(x, (), norm, Want.PLAIN)
    a, grad_low = place.random(rank, width), place.random(num_rows, rank)
    mask = reference.hashed_mask(SEED, num_rows, width, share).to(place.device)
    ours, plain = (Dropout(share, SEED), Dropout(share, mask)) if share else (None, None)
    hold_to_rule(
        fused.lora_down(x, a, ours), reference.lora_down(x, a, plain),
        reference.lora_down(exactly(x), a.double(), plain),
    )  # fmt: skip
    b = place.random(rank, width)
    other = reference.hashed_mask(SEED - 5, num_rows, width, share).to(place.device)
    second, plain_second = (Dropout(share, SEED - 5), Dropout(share, other)) if share else (None, None)
    for ours_low, plain_low, exact_low in zip(
        fused.lora_down_pair(x, a, ours, b, second), reference.lora_down_pair(x, a, plain, b, plain_second),
        reference.lora_down_pair(exactly(x), a.double(), plain, b.double(), plain_second), strict=True,
    ):  # fmt: skip
        hold_to_rule(ours_low, plain_low, exact_low)
    hold_to_rule(
        fused.lora_grad_a(grad_low, x, ours), reference.lora_grad_a(grad_low, x, plain),
        reference.lora_grad_a(grad_low.double(), exactly(x), plain),
    )  # fmt: skip
    grad = place.random(num_rows, width)
    found, twin, exact = grad.clone(), grad.clone(), grad.double()
    fused.lora_grad_input_(found, grad_low, a, ours)
    reference.lora_grad_input_(twin, grad_low, a, plain)
    reference.lora_grad_input_(exact, grad_low.double(), a.double(), plain)
    hold_to_rule(found, twin, exact)


@pytest.mark.parametrize("seed", [SEED, 1, 16])
def test_a_seed_in_memory_gives_what_its_number_gives(place, seed):
    x, a, grad_low, share = place.random(70, 96), place.random(8, 96), place.random(70, 8), 0.3
    stored = Dropout(share, torch.tensor([5, seed, 7], device=place.device)[1])
    number, other = Dropout(share, seed), Dropout(share, seed + 1)
    assert torch.equal(fused.lora_down(x, a, stored), fused.lora_down(x, a, number))
    assert not torch.equal(fused.lora_down(x, a, stored), fused.lora_down(x, a, other))
    for one, two in zip(
        fused.lora_down_pair(x, a, other, a, stored), fused.lora_down_pair(x, a, other, a, number), strict=True
    ):
        assert torch.equal(one, two)
    assert torch.equal(fused.lora_grad_a(grad_low, x, stored), fused.lora_grad_a(grad_low, x, number))
    grad = place.random(70, 96)
    found, expected = grad.clone(), grad.clone()
    fused.lora_grad_input_(found, grad_low, a, stored)
    fused.lora_grad_input_(expected, grad_low, a, number)
    assert torch.equal(found, expected)


@triton.jit
def _hashes(x, out, number, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    known = at < number
    tl.store(out + at, lowbias32(tl.load(x + at, mask=known, other=0).to(tl.uint32)).to(tl.int64), mask=known)


def lowbias32_in_python(x):
    x ^= x >> 16
    x = x * 0x7FEB352D % 2**32
    x ^= x >> 15
    x = x * 0x846CA68B % 2**32
    return x ^ x >> 16


def test_the_hash_is_one_in_triton_in_torch_and_by_its_definition(place):
    numbers = [0, 1, 2, 0x9E3779B9, 2**31 - 1, 2**31, 2**32 - 1, *range(12345, 2**32, 2**32 // 100)]
    x = torch.tensor(numbers, device=place.device)
    out = torch.empty_like(x)
    _hashes[(1,)](x, out, len(x), BLOCK=triton.next_power_of_2(len(x)))
    expected = [lowbias32_in_python(number) for number in numbers]
    assert out.tolist() == reference.lowbias32(x).tolist() == expected
    assert expected[0] == 0 and len(set(expected)) == len(set(numbers))


@given(st.integers(-(2**40), 2**40))
def test_the_hash_is_that_of_the_low_32_bits(number):
    assert reference.lowbias32(torch.tensor([number])).item() == lowbias32_in_python(number % 2**32)


def drawn(seed, num_rows, width, share):
    """Return the mask that the CPU's operations draw after a seed of torch's generator."""
    torch.manual_seed(seed)
    return reference.sample_dropout(num_rows, width, share, torch.device("cpu")).mask


@pytest.mark.parametrize("mask_of", [reference.hashed_mask, drawn])
@pytest.mark.parametrize("share", [0.05, 0.5])
def test_the_mask_is_fair(mask_of, share):
    """Kept shares of all, of each row and of each column are what independent draws would give."""
    mask = mask_of(12345, 512, 1024, share).double()
    spread = (share * (1 - share)) ** 0.5
    for dim, count in ((None, 512 * 1024), (0, 512), (1, 1024)):
        found = mask.mean() if dim is None else mask.mean(dim=dim)
        assert (found - (1 - share)).abs().max() < 5 * spread / count**0.5
    for shift in (1, 2, 1024):
        flat = mask.flatten()
        both = (flat[:-shift] * flat[shift:]).mean()
        assert abs(float(both) - (1 - share) ** 2) < 5 / len(flat) ** 0.5


def test_seeds_give_masks_of_their_own():
    one, other = (reference.hashed_mask(seed, 64, 256, 0.5) for seed in (1, 2**30 + 5))
    assert 0.45 < float((one == other).double().mean()) < 0.55


def test_a_seed_is_drawn_from_torchs_generator():
    torch.manual_seed(3)
    first = fused.sample_dropout(4, 8, 0.1, torch.device("cpu"))
    torch.manual_seed(3)
    assert fused.sample_dropout(4, 8, 0.1, torch.device("cpu")) == first and isinstance(first.mask, int)


@pytest.mark.parametrize("width", [1, 7, 64])
@pytest.mark.parametrize("share", [1e-6, 0.2, 1 - 1e-6])
def test_the_cpus_mask_is_a_function_of_torchs_seed(width, share):
    first, again, other = (drawn(seed, 21, width, share) for seed in (5, 5, 6))
    assert first.shape == (21, width) and torch.equal(first, again)
    if share == 0.2:
        assert not torch.equal(first, other)
    else:
        assert bool(first.all()) == bool(other.all()) == (share < 0.5) and bool(first.any()) == (share < 0.5)


def test_without_memory_nothing_is_drawn():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = reference.sample_dropout(21, 64, 0.2, torch.device("meta"))
    assert found.mask.shape == (21, 64) and found.mask.is_meta and torch.equal(torch.get_rng_state(), before)


def test_seeds_draw_masks_of_their_own():
    one, other = (drawn(seed, 64, 256, 0.5) for seed in (1, 2))
    assert 0.45 < float((one == other).double().mean()) < 0.55
