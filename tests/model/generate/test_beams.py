"""The rules of beam search against a plain implementation in Python's floats, and against trying every reply."""

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from falconer.kernels.reference import lowbias32
from falconer.model.generate.beams import batches_of_beams, beam_search
from falconer.model.request import Decoding, Request

VOCAB, NONE = 6, torch.tensor([], dtype=torch.int64)


def logits_of(text: Sequence[int], vocabulary: int = VOCAB) -> torch.Tensor:
    """Return logits that are random, but the same for the same text."""
    state = torch.tensor(1)
    for token in text:
        state = lowbias32(state * 7 + token + 1)
    return torch.stack([(lowbias32(state + 13 * token) % 1000) / 150.0 for token in range(vocabulary)]).double()


class Texts:
    """A model that knows nothing but its rows' texts."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.texts = [tuple(request.prompt) for request in requests]

    def first(self) -> torch.Tensor:
        return torch.stack([logits_of(text) for text in self.texts])

    def next(self, sources: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        self.texts = [(*self.texts[source], token) for source, token in zip(sources, tokens, strict=True)]
        return self.first()


def searched(*requests: Request, unknown: torch.Tensor = NONE) -> list[list[int]]:
    return beam_search(Texts(requests), requests, unknown)


def plainly(
    request: Request, logits: Callable[[Sequence[int]], Sequence[float]], unknown: Sequence[int] = ()
) -> list[int]:
    """Search by the rules alone: every extension of every beam is written down and sorted, at each step."""
    how = request.decoding
    beams: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    finished: list[tuple[float, tuple[int, ...]]] = []
    for length in range(1, how.max_new_tokens + 1):
        extended = []
        for before, said in beams:
            row = [-math.inf if t in unknown else one for t, one in enumerate(logits([*request.prompt, *said]))]
            total = math.log(sum(math.exp(one - max(row)) for one in row)) + max(row)
            row = [one - total for one in row]
            counted = {*(t for part in request.within(how.repetition_penalty_scope) for t in part), *said}
            size = how.no_repeat_ngram_size
            known = {said[at : at + size] for at in range(len(said) - size + 1)} if size else set()
            for token, value in enumerate(row):
                if token in counted and token not in request.stops:
                    value *= how.repetition_penalty
                repeats = size and (*said, token)[-size:] in known and token not in request.stops
                if value > -math.inf and not repeats:
                    extended.append((before + value, (*said, token)))
        extended.sort(key=lambda one: -one[0])
        kept = extended[: how.num_beams * (1 + max(1, len(request.stops)))]
        is_end = {said: said[-1] in request.stops or length == how.max_new_tokens for _, said in kept}
        new = [(value / length**how.length_penalty, said) for value, said in kept[: how.num_beams] if is_end[said]]
        finished = sorted([*finished, *new], key=lambda one: -one[0])[: how.num_beams]
        beams = [one for one in kept if not is_end[one[1]]][: how.num_beams]
        is_full = len(finished) == how.num_beams
        if is_full and beams and beams[0][0] / length**how.length_penalty <= finished[-1][0]:
            break
    return list(finished[0][1])


REQUESTS = st.builds(
    Request,
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=5),
    st.builds(
        Decoding, max_new_tokens=st.integers(1, 7), num_beams=st.integers(2, 5),
        length_penalty=st.sampled_from([-0.5, 0.0, 1.0, 1.7]), repetition_penalty=st.sampled_from([1.0, 1.0, 1.5]),
        repetition_penalty_scope=st.sampled_from(["reply", "prompt"]), no_repeat_ngram_size=st.sampled_from([0, 2]),
        stops=st.sampled_from([(), (2,), (0, 5)]),
    ),
)  # fmt: skip


@given(st.lists(REQUESTS, min_size=1, max_size=4), st.sampled_from([(), (3,)]))
def test_each_request_is_searched_by_the_rules_whatever_else_is_in_the_batch(requests, unknown):
    found = searched(*requests, unknown=torch.tensor(unknown, dtype=torch.int64))
    assert found == [plainly(one, lambda text: logits_of(text).tolist(), unknown) for one in requests]
    for reply, request in zip(found, requests, strict=True):
        assert len(reply) == request.decoding.max_new_tokens or reply[-1] in request.stops


@pytest.mark.parametrize("prompt", [[1], [4, 2], [5, 5, 1]])
def test_with_beams_for_every_reply_it_finds_the_most_probable_one(prompt):
    vocabulary = 3

    def log_probability(reply):
        texts = [[*prompt, *reply[:at]] for at in range(len(reply))]
        values = [logits_of(text, vocabulary).log_softmax(0)[t] for text, t in zip(texts, reply, strict=True)]
        return float(sum(values))

    class Few(Texts):
        def first(self):
            return torch.stack([logits_of(text, vocabulary) for text in self.texts])

    request = Request(prompt, Decoding(3, num_beams=9, stops=()))
    best = max(itertools.product(range(vocabulary), repeat=3), key=log_probability)
    assert beam_search(Few([request]), [request], NONE) == [list(best)]


def test_the_length_penalty_decides_between_short_and_long():
    requests = [
        Request([prompt], Decoding(8, num_beams=4, length_penalty=penalty, stops=(2,)))
        for penalty in (-2.0, 3.0)
        for prompt in range(VOCAB)
    ]
    lengths = list(map(len, searched(*requests)))
    assert sum(lengths[:VOCAB]) < sum(lengths[VOCAB:]) == 8 * VOCAB


def test_batches_have_no_more_beams_than_asked_for():
    requests = [Request([1], Decoding(num_beams=num)) for num in (4, 4, 2, 9, 1, 3)]
    assert list(batches_of_beams([5, 0, 1, 2, 3, 4], requests, 8)) == [[5, 0], [1, 2], [3], [4]]
    assert list(batches_of_beams([], requests, 8)) == []
