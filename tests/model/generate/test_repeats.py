"""Penalties and n-grams against transformers' own processors, and a plain search for repeated n-grams."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from falconer.model.generate.repeats import Repeats, penalised
from falconer.model.generate.sampling import Kind, Rows
from falconer.model.request import Decoding, Request

CPU, VOCAB = torch.device("cpu"), 7


def rows_of(*decodings):
    return Rows.of([Request([1], one) for one in decodings], 5, CPU)


def changed(asked, said, logits_BV):
    """Return the logits of some requests after what each has said."""
    repeats = Repeats.of(asked, said, logits_BV.shape[1], CPU)
    most = max(map(len, said))
    said_BT = torch.tensor([[*tokens, *[0] * (most - len(tokens))] for tokens in said], dtype=torch.int64)
    counts_B = torch.tensor([len(tokens) for tokens in said])
    return repeats.changed(logits_BV, Rows.of(asked, logits_BV.shape[1], CPU), Kind.of(asked), said_BT, counts_B)


def plainly(request, said, logits):
    """Return a row's logits by the definitions, in lists of Python's floats."""
    decoding, found = request.decoding, list(logits)
    for token in {t for part in request.within(decoding.repetition_penalty_scope) for t in part} | set(said):
        if token not in request.stops:
            penalty = decoding.repetition_penalty
            found[token] = found[token] / penalty if found[token] > 0 else found[token] * penalty
    size, parts = decoding.no_repeat_ngram_size, [list(part) for part in request.within(decoding.no_repeat_ngram_scope)]
    if not size:
        return found
    parts = [[*parts[0], *said]] if decoding.no_repeat_ngram_scope == "prompt" else [*parts, list(said)]
    known = {tuple(part[at : at + size]) for part in parts for at in range(len(part) - size + 1)}
    behind = parts[-1][len(parts[-1]) - size + 1 :] if size > 1 else []
    left = [
        -math.inf if (*behind, token) in known and len(behind) == size - 1 and token not in request.stops else logit
        for token, logit in enumerate(found)
    ]
    return left if max(left) > -math.inf else found


@st.composite
def requests(draw):
    prompt = draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=30))
    borders = sorted(draw(st.sets(st.integers(0, len(prompt)), max_size=8)))
    own = list(zip(borders[::2], borders[1::2], strict=False))
    scopes = st.sampled_from(["reply", "own", "prompt"])
    decoding = Decoding(
        repetition_penalty=draw(st.sampled_from([1.0, 1.5])), repetition_penalty_scope=draw(scopes),
        no_repeat_ngram_size=draw(st.sampled_from([0, 1, 2, 2, 3, 5])), no_repeat_ngram_scope=draw(scopes),
        stops=draw(st.sampled_from([(), (2,), (1, 4)])),
    )  # fmt: skip
    return Request(prompt, decoding, own_turns=own)


@given(st.lists(st.tuples(requests(), st.lists(st.integers(0, VOCAB - 1), max_size=12)), min_size=1, max_size=5))
def test_each_row_is_what_the_definitions_say_whatever_else_is_in_the_batch(rows):
    asked, said = [request for request, _ in rows], [tokens for _, tokens in rows]
    logits_BV = torch.randn(len(rows), VOCAB, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found = changed(asked, said, logits_BV).tolist()
    assert found == [plainly(*row, logits) for row, logits in zip(rows, logits_BV.tolist(), strict=True)]


@given(
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=30),
    st.lists(st.integers(0, VOCAB - 1), max_size=12),
    st.integers(1, 6),
)
def test_over_the_whole_prompt_both_are_what_transformers_does(prompt, said, size):
    logits_BV, ids = torch.randn(1, 50, generator=torch.Generator().manual_seed(5)), torch.tensor([[*prompt, *said]])
    decoding = Decoding(
        repetition_penalty=1.3, no_repeat_ngram_size=size, no_repeat_ngram_scope="prompt", stops=()
    )  # fmt: skip
    theirs = RepetitionPenaltyLogitsProcessor(1.3)(ids, logits_BV.clone())
    if ids.shape[1] + 1 >= size:
        theirs = NoRepeatNGramLogitsProcessor(size)(ids, theirs)
    assert torch.equal(changed([Request(prompt, decoding)], [said], logits_BV), theirs)


def test_the_penalty_makes_seen_tokens_less_likely_but_spares_what_stops_a_reply():
    logits = torch.tensor([[2.0, -2.0, 1.0, -1.0, 3.0]])
    seen = torch.tensor([[True, True, False, False, True]])
    rows = rows_of(*[Decoding(repetition_penalty=penalty, stops=(4,)) for penalty in (2.0, 1.0)])
    after = penalised(logits.expand(2, -1), seen.expand(2, -1), rows)
    assert after.tolist() == [[1.0, -4.0, 1.0, -1.0, 3.0], [2.0, -2.0, 1.0, -1.0, 3.0]]


@pytest.mark.parametrize("large", [1e39, 1e300, math.inf])
def test_a_penalty_too_large_for_the_logits_format_makes_no_nan(large):
    seen = torch.tensor([[True, True, False, False, False]])
    after = penalised(torch.tensor([[0.0, -2.0, 3.0, 1.0, 0.5]]), seen, rows_of(Decoding(repetition_penalty=large)))
    assert after.isfinite().sum() == 4 and after.argmax() == 2


def test_rows_are_put_moved_and_added_to():
    how = Decoding(repetition_penalty=2.0, no_repeat_ngram_size=2, no_repeat_ngram_scope="own", stops=())
    plain, asked = Request([1]), Request([3, 4, 0], how, own_turns=[(0, 2)])
    repeats, rows = Repeats(3, 5, 3, CPU), Rows(3, 5, CPU)
    said, counts, logits = torch.tensor([[3], [3], [3]]), torch.tensor([1, 1, 1]), torch.ones(3, 5)

    def put(at, requests):
        repeats.put(at, requests, [[3]] * len(at))
        rows.put(at, requests)

    put([0, 1, 2], [plain, asked, plain])
    target = [[1.0] * 5, [0.5, 1.0, 1.0, 0.5, -math.inf], [1.0] * 5]
    kind = Kind.of([asked])
    assert repeats.changed(logits, rows, kind, said, counts).tolist() == target
    one, other = torch.tensor([1]), torch.tensor([2])
    repeats.move(one, other), rows.move(one, other)
    put([1], [plain])
    repeats.add(torch.tensor([2, 2, 2]), kind, torch.tensor([True, True, False]))
    assert repeats.changed(logits, rows, kind, said, counts).tolist() == [target[0], target[0], target[1]]
    repeats.add(torch.tensor([2, 2, 2]), kind)
    assert repeats.changed(logits, rows, kind, said, counts)[2].tolist() == [0.5, 1.0, 0.5, 0.5, -math.inf]
    assert (
        repeats.changed(logits[:2], rows.first(2), Kind.of([plain]), said[:2], counts[:2]).tolist() == [[1.0] * 5] * 2
    )


def test_where_nothing_else_is_left_anything_may_be_said():
    asked = [Request([1], Decoding(no_repeat_ngram_size=1, stops=()))]
    logits_BV = torch.tensor([[0.0, -math.inf, 2.0]])
    assert changed(asked, [[0, 2]], logits_BV).tolist() == logits_BV.tolist()
