"""Beam search: the most probable of several replies that are extended side by side.

Each step extends a request's beams by every token, and keeps the most probable `num_beams` replies that go on; those
that end are finished. Penalty and n-grams change the log-probabilities of the next token. A finished reply is compared
by its log-probability, divided by its number of tokens to the power of `length_penalty`. The search is over at the
longest reply, or as soon as `num_beams` replies are finished and the best beam, at its present length, is no better
than the worst of them. These are the rules of transformers' `generate(num_beams=..., early_stopping=False)` (version
5), but stop tokens are exempt from penalty and n-grams, and tokens that are never generated have no share of the
probability.

Which tokens are the best of each row is computed on the device, everything else on the host: a step waits for the
device, and on a GPU it is not recorded. No request sees the others of its batch.

Shapes: R rows (beams of all requests), V vocabulary, T most tokens of a reply, K best tokens of a row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from falconer.model.generate.repeats import Repeats
from falconer.model.generate.sampling import Kind, Rows, without
from falconer.model.generate.transfer import on_device
from falconer.model.request import Request


class Extending(Protocol):
    """A model that extends rows, each of which has what was read of a prompt and its reply."""

    def first(self) -> torch.Tensor:
        """Return the logits [R, V] behind each prompt, a row for each request, fp32 or fp64."""
        ...

    def next(self, sources: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """Return the logits [R, V] of new rows, fp32 or fp64: each is a row of before that reads one more token."""
        ...


@dataclass(frozen=True, slots=True)
class Beam:
    """A reply that goes on: its tokens and their log-probability; `row` is where it was in the step before."""

    said: tuple[int, ...] = ()
    log_probability: float = 0.0
    row: int = 0


@dataclass(slots=True)
class Search:
    """The search for the reply to one request.

    Args:
        finished: (score, tokens), the best first; at most as many as there are beams.
    """

    request: Request
    beams: list[Beam]
    finished: list[tuple[float, tuple[int, ...]]] = field(default_factory=list)

    @property
    def num_kept(self) -> int:
        """How many extensions are looked at: if all stop tokens are among the best of each beam, enough go on."""
        return self.request.decoding.num_beams * (1 + max(1, len(self.request.stops)))

    def extend(self, found: Sequence[tuple[float, int, int]]) -> None:
        """Extend the beams; none is left if the search is over.

        Nothing happens if it was over before.

        Args:
            found: (log-probability with the token, number of the beam, token).
        """
        if not self.beams:
            return
        decoding, length = self.request.decoding, len(self.beams[0].said) + 1
        is_last, scale = length == decoding.max_new_tokens, length**decoding.length_penalty
        going_on = []
        for place, (value, beam, token) in enumerate(sorted(found, key=lambda one: -one[0])[: self.num_kept]):
            said = (*self.beams[beam].said, token)
            if not (is_last or token in self.request.stops):
                going_on.append(Beam(said, value, self.beams[beam].row))
            elif place < decoding.num_beams:
                self.finished.append((value / scale, said))
        self.finished = sorted(self.finished, key=lambda one: -one[0])[: decoding.num_beams]
        self.beams = going_on[: decoding.num_beams]
        is_full = len(self.finished) == decoding.num_beams
        if is_full and self.beams and self.beams[0].log_probability / scale <= self.finished[-1][0]:
            self.beams = []


def beam_search(model: Extending, requests: Sequence[Request], unknown: torch.Tensor) -> list[list[int]]:
    """Return the token ids of the best reply to each request; a stop token is its last token.

    Args:
        unknown: tokens that are never generated, int64.
    """
    logits_RV = model.first()
    vocabulary, device, kind = logits_RV.shape[1], unknown.device, Kind.of(requests)
    num_rows = sum(request.decoding.num_beams for request in requests)
    rows = Rows(num_rows, vocabulary, device)
    repeats = Repeats(num_rows, vocabulary, max(len(request.prompt) for request in requests), device)
    rows.put(range(len(requests)), requests)
    repeats.put(range(len(requests)), requests, [()] * len(requests))
    searches = [Search(request, [Beam(row=row)]) for row, request in enumerate(requests)]
    most = min(vocabulary, max(search.num_kept for search in searches))
    for count in range(max(request.decoding.max_new_tokens for request in requests)):
        beams = [beam for search in searches for beam in search.beams]
        said_RT = torch.tensor([beam.said for beam in beams], dtype=torch.int64, device=device).view(len(beams), count)
        counts_R = torch.full((len(beams),), count, dtype=torch.int64, device=device)
        values_RV = without(logits_RV, unknown).log_softmax(dim=1)
        best_RK, ids_RK = repeats.changed(values_RV, rows.first(len(beams)), kind, said_RT, counts_R).topk(most, dim=1)
        found = zip(best_RK.tolist(), ids_RK.tolist(), strict=True)
        for search in searches:
            search.extend([
                (beam.log_probability + value, number, token)
                for number, (beam, (values, ids)) in enumerate(zip(search.beams, found, strict=False))
                for value, token in zip(values, ids, strict=True)
                if value > -torch.inf
            ])  # fmt: skip
        beams = [beam for search in searches for beam in search.beams]
        if not beams:
            break
        sources, tokens = [beam.row for beam in beams], [beam.said[-1] for beam in beams]
        places = on_device([sources, list(range(len(beams)))], device)
        rows.move(*places)
        repeats.move(*places)
        repeats.add(on_device(tokens, device), kind)
        logits_RV = model.next(sources, tokens)
        numbers = iter(range(len(beams)))
        for search in searches:
            search.beams = [Beam(beam.said, beam.log_probability, next(numbers)) for beam in search.beams]
    return [list(search.finished[0][1]) for search in searches]


def batches_of_beams(numbers: Sequence[int], requests: Sequence[Request], num_rows: int) -> Iterator[list[int]]:
    """Split the numbers of requests into batches of at most so many beams, or of one request."""
    batch: list[int] = []
    total = 0
    for number in numbers:
        beams = requests[number].decoding.num_beams
        if batch and total + beams > num_rows:
            yield batch
            batch, total = [], 0
        batch.append(number)
        total += beams
    if batch:
        yield batch
