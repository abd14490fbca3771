"""Choosing tokens: the penalty, temperature, top-k and top-p, and that a draw depends on its own row alone."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from falconer.model.generate.sampling import Decoding, _uniform, choose, penalised


def drawn(logits, decoding, num=400):
    """Return what `num` replies would draw from the same logits."""
    rows = torch.arange(num)
    return choose(logits.expand(num, -1), decoding, rows, torch.zeros_like(rows)).tolist()


def test_the_penalty_makes_seen_tokens_less_likely_but_spares_what_stops_a_reply():
    logits = torch.tensor([[2.0, -2.0, 1.0, -1.0, 3.0]])
    seen = torch.tensor([[True, True, False, False, True]])
    changed = penalised(logits, seen, 2.0, torch.tensor([4]))
    assert changed.tolist() == [[1.0, -4.0, 1.0, -1.0, 3.0]]
    assert penalised(logits, seen, 1.0, torch.tensor([4])) is logits


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


def test_the_temperature_changes_how_often():
    logits = torch.tensor([0.8, 0.2]).log()
    share = drawn(logits, Decoding(temperature=2.0, top_p=1.0), num=4000).count(0) / 4000
    # 2 : 1, since sqrt(0.8 / 0.2) = 2; three standard errors are 0.022.
    assert math.isclose(share, 2 / 3, abs_tol=0.025)


def test_draws_are_even_and_differ_by_seed_row_and_step():
    rows = torch.arange(20000)
    for seed in (0, 17, 2**31 - 1):
        by_row, by_step = _uniform(seed, rows, rows * 0), _uniform(seed, rows * 0, rows)
        for numbers in (by_row, by_step):
            assert numbers.min() >= 0 and numbers.max() < 1
            counts = torch.histc(numbers, 20, 0, 1)
            # Chi-square with 19 degrees of freedom is below 44 in 99.9 % of all cases.
            assert float(((counts - 1000) ** 2 / 1000).sum()) < 44
            assert abs(float(torch.corrcoef(torch.stack([numbers[1:], numbers[:-1]]))[0, 1])) < 0.03
        assert not torch.equal(by_row, by_step)
        assert not torch.equal(by_row, _uniform(seed + 1, rows, rows * 0))


@given(
    st.integers(1, 6), st.integers(2, 40), st.floats(0.05, 20), st.floats(0.01, 1), st.integers(0, 5),
    st.integers(0, 2**31),
)  # fmt: skip
def test_a_row_draws_the_same_whatever_else_is_in_the_batch(num, vocabulary, temperature, top_p, top_k, seed):
    generator = torch.Generator().manual_seed(seed % 1000)
    logits = torch.randn(num, vocabulary, generator=generator) * 5
    rows, steps = torch.arange(num) * 7, torch.arange(num) * 3
    decoding = Decoding(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
    together = choose(logits, decoding, rows, steps)
    alone = [int(choose(logits[[n]], decoding, rows[[n]], steps[[n]])) for n in range(num)]
    assert together.tolist() == alone
    # Nothing but what top-k keeps is ever drawn.
    if top_k:
        rank = (logits > logits.gather(1, together[:, None])).sum(dim=1)
        assert int(rank.max()) < top_k


def test_how_tokens_are_chosen_is_said_in_words():
    assert str(Decoding()) == "greedy, at most 32 tokens"
    sampled = str(Decoding(temperature=0.7, repetition_penalty=1.1))
    assert sampled == "temperature 0.7, top-p 0.9, seed 17, repetition penalty 1.1, at most 32 tokens"
