"""Choosing tokens: temperature, top-k, top-p and min-p, and that a draw depends on its own row alone."""

import math
from bisect import bisect_right
from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import MinPLogitsWarper

from falconer.model.generate import sampling
from falconer.model.generate.sampling import Kind, Rows, _uniform, choose, without
from falconer.model.request import Decoding, Request

CPU = torch.device("cpu")


def rows_of(vocabulary, *decodings, numbers=None):
    asked = [Request([1], one, number) for number, one in zip(numbers or range(len(decodings)), decodings, strict=True)]
    return Rows.of(asked, vocabulary, CPU)


def drawn(logits, decoding, num=400):
    """Return what `num` replies would draw from the same logits."""
    rows = rows_of(len(logits), *[decoding] * num)
    return choose(logits.expand(num, -1), rows, torch.zeros(num, dtype=torch.int64), kind_of(decoding)).tolist()


def kind_of(*decodings):
    return Kind.of([Request([1], one) for one in decodings])


@pytest.mark.parametrize("large", [1e39, 1e300, math.inf])
def test_settings_too_large_for_the_logits_format_make_no_nan(large):
    logits, unknown = torch.tensor([[0.0, -2.0, 3.0, 1.0]]), torch.tensor([1])
    found = drawn(without(logits.clone(), unknown)[0], Decoding(temperature=large, top_p=1.0))
    assert set(found) == {0, 2, 3}
    assert set(drawn(logits[0], Decoding(temperature=1.0, top_p=1.0, top_k=2**70))) == {0, 1, 2, 3}


def test_a_number_counts_by_its_lower_32_bits():
    logits = torch.zeros(1, 1000).expand(4, -1)
    rows = rows_of(1000, *[Decoding(temperature=1.0)] * 4, numbers=[5, 5 + 2**32, 5 + 2**80, -5])
    kind = kind_of(Decoding(temperature=1.0))
    one, same, too, other = choose(logits, rows, torch.zeros(4, dtype=torch.int64), kind).tolist()
    assert one == same == too != other


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    kept = {p: set(drawn(logits, Decoding(temperature=1.0, top_p=p))) for p in (0.5, 0.51, 0.9, 1.0)}
    assert kept == {0.5: {0}, 0.51: {0, 1}, 0.9: {0, 1, 2}, 1.0: {0, 1, 2, 3}}


def test_top_k_keeps_the_k_most_likely_before_top_p_counts():
    logits = torch.tensor([0.05, 0.5, 0.15, 0.3]).log()
    for k, kept in ((1, {1}), (2, {1, 3}), (3, {1, 2, 3}), (0, {0, 1, 2, 3}), (9, {0, 1, 2, 3})):
        assert set(drawn(logits, Decoding(temperature=1.0, top_p=1.0, top_k=k))) == kept
    # Of two tokens the first has 0.625 of what is left, so it alone reaches 0.6.
    assert set(drawn(logits, Decoding(temperature=1.0, top_p=0.6, top_k=2))) == {1}


@pytest.mark.parametrize("min_p", [0.0, 0.1, 0.3, 0.59, 0.61, 1.0])
def test_min_p_keeps_what_transformers_keeps(min_p):
    logits, decoding = torch.tensor([0.5, 0.3, 0.15, 0.05]).log(), Decoding(temperature=2.0, top_p=1.0, min_p=min_p)
    warped = MinPLogitsWarper(min_p)(torch.empty(0), logits[None] / 2.0)[0]
    assert set(drawn(logits, decoding)) == set(warped.isfinite().nonzero().flatten().tolist())


def test_min_p_counts_after_top_p():
    # Of 0.5 and 0.3, which top-p keeps, 0.3 is 0.6 of the most likely one.
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    for min_p, kept in ((0.2, {0, 1}), (0.7, {0})):
        assert set(drawn(logits, Decoding(temperature=1.0, top_p=0.7, min_p=min_p))) == kept


def test_the_temperature_changes_how_often():
    logits = torch.tensor([0.8, 0.2]).log()
    share = drawn(logits, Decoding(temperature=2.0, top_p=1.0), num=4000).count(0) / 4000
    # 2 : 1, since sqrt(0.8 / 0.2) = 2; three standard errors are 0.022.
    assert math.isclose(share, 2 / 3, abs_tol=0.025)


@pytest.mark.parametrize(
    "how", [{"top_p": 1.0}, {"top_p": 0.95}, {"top_p": 1.0, "top_k": 40}, {"top_p": 1, "min_p": 0.02}]
)
def test_tokens_are_drawn_as_often_as_they_are_likely(how):
    logits = torch.randn(50, generator=torch.Generator().manual_seed(5)) * 2
    decoding = Decoding(temperature=1.0, **how)
    found = torch.bincount(torch.tensor(drawn(logits, decoding, num=20_000)), minlength=50).double()
    kept = found > 0
    expected = torch.where(kept, torch.softmax(logits.double(), 0), 0)
    expected *= 20_000 / expected.sum()
    # Chi-square exceeds its degrees of freedom by five of its standard deviations in less than 1 of 10,000 cases.
    num = int(kept.sum()) - 1
    assert num > 10 and float((((found - expected)[kept]) ** 2 / expected[kept]).sum()) < num + 5 * math.sqrt(2 * num)


def test_the_smallest_draw_is_not_a_token_that_is_next_to_impossible(monkeypatch):
    assert 0 < float(_uniform(*torch.zeros(3, 1, dtype=torch.int64))) < 1
    monkeypatch.setattr(sampling, "lowbias32", torch.zeros_like)
    assert drawn(torch.tensor([-60.0, 0.0, 1.0, 2.0]), Decoding(temperature=1.0, top_p=1.0), num=1) == [1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_draw_is_a_token_that_is_kept(dtype, monkeypatch):
    """Whatever rounding does to the sums, excluded tokens behind the last kept one are never drawn."""
    monkeypatch.setattr(sampling, "_uniform", lambda seeds_B, *_: torch.ones(len(seeds_B), dtype=torch.float64))
    logits = torch.randn(64, 999, generator=torch.Generator().manual_seed(5), dtype=dtype)
    without(logits, torch.arange(990, 999))
    for how in ({"top_p": 1.0}, {"top_p": 0.5}, {"top_p": 1.0, "min_p": 0.2}):
        rows = rows_of(999, *[Decoding(temperature=1.0, **how)] * 64)
        found = choose(logits, rows, torch.zeros(64, dtype=torch.int64), kind_of(Decoding(temperature=1.0, **how)))
        assert found.max() < 990
        assert logits.gather(1, found[:, None]).isfinite().all()


def test_draws_are_even_and_differ_by_seed_row_and_step():
    rows = torch.arange(20000)
    for seed in (rows * 0, rows * 0 + 17, rows * 0 + 2**31 - 1):
        by_row, by_step = _uniform(seed, rows, rows * 0), _uniform(seed, rows * 0, rows)
        for numbers in (by_row, by_step):
            assert numbers.min() >= 0 and numbers.max() < 1
            counts = torch.histc(numbers, 20, 0, 1)
            # Chi-square with 19 degrees of freedom is below 44 in 99.9 % of all cases.
            assert float(((counts - 1000) ** 2 / 1000).sum()) < 44
            assert abs(float(torch.corrcoef(torch.stack([numbers[1:], numbers[:-1]]))[0, 1])) < 0.03
        assert not torch.equal(by_row, by_step)
        assert not torch.equal(by_row, _uniform(seed + 1, rows, rows * 0))


def oracle(logits, decoding, number, step):
    """Return the tokens that one row may draw, in plain Python and float64: one, or two near a border."""
    logits = logits.double().tolist()
    if decoding.temperature == 0:
        return {logits.index(max(logits))}
    shares = [math.exp((one - max(logits)) / decoding.temperature) for one in logits]
    order = sorted(range(len(shares)), key=lambda token: -shares[token])[: decoding.top_k or None]
    total, mass, kept = sum(shares[token] for token in order), 0.0, []
    for token in order:
        if kept and mass >= decoding.top_p * total:
            break
        kept.append(token)
        mass += shares[token]
    kept = sorted(token for token in kept if shares[token] >= decoding.min_p * max(shares))
    drawn = float(_uniform(*torch.tensor([decoding.seed & 0xFFFFFFFF, number, step]).view(3, 1)))
    sums = list(accumulate(shares[token] for token in kept))
    found = bisect_right(sums, drawn * sums[-1])
    # fp32 may see a number on the other side of a border: which tokens would it draw then?
    near = {kept[min(bisect_right(sums, (drawn + more) * sums[-1]), len(kept) - 1)] for more in (-1e-5, 1e-5)}
    return {kept[found], *near}


decodings = st.builds(
    Decoding, temperature=st.sampled_from([0.0, 1e-30, 0.05, 0.7, 1.0, 20.0]), top_p=st.floats(0.01, 1),
    top_k=st.integers(0, 5), seed=st.integers(0, 2**40), min_p=st.sampled_from([0.0, 0.0, 0.2]),
)  # fmt: skip


@given(st.lists(decodings, min_size=1, max_size=6), st.integers(2, 40), st.integers(0, 999))
def test_a_row_draws_the_same_whatever_else_is_in_the_batch(asked, vocabulary, seed):
    num, generator = len(asked), torch.Generator().manual_seed(seed)
    logits = torch.randn(num, vocabulary, generator=generator) * 5
    numbers, steps = [7 * n for n in range(num)], torch.arange(num) * 3
    kind = kind_of(*asked)
    together = choose(logits, rows_of(vocabulary, *asked, numbers=numbers), steps, kind).tolist()
    for n, one in enumerate(asked):
        row, kind = rows_of(vocabulary, one, numbers=[numbers[n]]), kind_of(one)
        assert choose(logits[[n]], row, steps[[n]], kind).tolist() == [together[n]]
        assert together[n] in oracle(logits[n], one, numbers[n], int(steps[n]))
        # Nothing but what top-k keeps is ever drawn.
        if one.top_k:
            assert int((logits[n] > logits[n, together[n]]).sum()) < one.top_k


def test_rows_are_put_moved_and_seen_in_part():
    rows = rows_of(9, Decoding(3, seed=1, stops=(2, 8)), Decoding(4, temperature=0.5, top_k=6, stops=()))
    assert rows.limits_B.tolist() == [3, 4] and rows.stops_BV.nonzero().tolist() == [[0, 2], [0, 8]]
    rows.move(torch.tensor([0]), torch.tensor([1]))
    assert rows.limits_B.tolist() == [3, 3] and rows.temperature_B.tolist() == [0.0, 0.0]
    how = Decoding(5, top_p=0.25, repetition_penalty=1.5, stops=(0,), min_p=0.5, no_repeat_ngram_size=3)
    rows.put([0], [Request([1], how, number=77)])
    first = rows.first(1)
    assert (first.min_p_B.tolist(), first.ngrams_B.tolist(), rows.ngrams_B.tolist()) == ([0.5], [3], [3, 0])
    assert (first.numbers_B.tolist(), first.top_p_B.tolist(), first.penalty_B.tolist()) == ([77], [0.25], [1.5])
    assert rows.stops_BV.nonzero().tolist() == [[0, 0], [1, 2], [1, 8]]


def test_a_step_does_only_what_somebody_needs():
    greedy, warm, stern = (Request([1], one) for one in (Decoding(), Decoding(temperature=1), Decoding(5, 0, 0.9, 2)))
    assert Kind.of([greedy]) == Kind(samples=False, penalises=False)
    assert Kind.of([greedy, warm]) == Kind(samples=True, penalises=False, sorts=True)
    assert Kind.of([stern, greedy]) == Kind(samples=False, penalises=True)
    for sorts, how in ((False, {"top_p": 1}), (False, {"top_p": 1, "min_p": 0.3}), (True, {"top_p": 1, "top_k": 5})):
        assert kind_of(Decoding(), Decoding(temperature=1, **how)) == Kind(samples=True, penalises=False, sorts=sorts)
    apart = [Request([1], Decoding(no_repeat_ngram_size=size)) for size in (0, 1, 2, 3, 5)]
    assert [Kind.of([greedy, one]).ngram for one in apart] == [0, 1, 2, 4, 8]


def test_unknown_tokens_are_never_chosen():
    logits = torch.tensor([[1.0, 5.0, 3.0]])
    assert without(logits.clone(), torch.tensor([1])).tolist() == [[1.0, -math.inf, 3.0]]
    assert without(logits, torch.tensor([], dtype=torch.int64)) is logits
