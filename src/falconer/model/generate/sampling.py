"""Choosing the next token: greedily or by sampling with temperature, top-k, top-p and min-p.

The tokens sampled for a reply depend only on its request: on the seed, the request's number and the number of tokens so
far. They depend neither on the rest of the batch nor on the device's random generator. The requests of a batch may have
different decoding: the settings of each row are in tensors, so that one step serves all rows.

Shapes: B rows, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from falconer.kernels.reference import lowbias32
from falconer.model.generate.transfer import on_device
from falconer.model.request import Request

# Added before each hash, as lowbias32 leaves 0 as it is: the golden ratio's first 32 bits.
GOLDEN = 0x9E3779B9


class Rows:
    """The settings of each row of a batch, on the device.

    Args:
        num_rows: number of rows, which are greedy and without stop tokens until they are set.
        vocabulary: outputs of the model's head.
    """

    def __init__(self, num_rows: int, vocabulary: int, device: torch.device) -> None:
        self._integers_5B = torch.zeros(5, num_rows, dtype=torch.int64, device=device)
        self._reals_4B = torch.ones(4, num_rows, dtype=torch.float64, device=device)
        self.stops_BV = torch.zeros(num_rows, vocabulary, dtype=torch.bool, device=device)
        self._name()

    def _name(self) -> None:
        self.seeds_B, self.numbers_B, self.top_k_B, self.limits_B, self.ngrams_B = self._integers_5B
        self.temperature_B, self.top_p_B, self.penalty_B, self.min_p_B = self._reals_4B

    @classmethod
    def of(cls, requests: Sequence[Request], vocabulary: int, device: torch.device) -> "Rows":
        """Return the rows of a fixed batch."""
        rows = cls(len(requests), vocabulary, device)
        rows.put(range(len(requests)), requests)
        return rows

    def put(self, at: Sequence[int], requests: Sequence[Request]) -> None:
        """Set the rows `at` to the settings of requests."""
        device = self.stops_BV.device
        how = [request.decoding for request in requests]
        integers = [
            # Hashed are the lower 32 bits of a number.
            [one.seed & 0xFFFFFFFF for one in how], [request.number & 0xFFFFFFFF for request in requests],
            [min(one.top_k, self.stops_BV.shape[1]) for one in how], [one.max_new_tokens for one in how],
            [one.no_repeat_ngram_size for one in how],
        ]  # fmt: skip
        reals = [
            [one.temperature for one in how], [one.top_p for one in how], [one.repetition_penalty for one in how],
            [one.min_p for one in how],
        ]  # fmt: skip
        places = on_device(list(at), device)
        self._integers_5B[:, places] = on_device(integers, device)
        self._reals_4B[:, places] = on_device(reals, device, torch.float64)
        self.stops_BV[places] = False
        pairs = [(place, token) for place, request in zip(at, requests, strict=True) for token in request.stops]
        if pairs:
            rows, tokens = on_device(pairs, device).T
            self.stops_BV[rows, tokens] = True

    def move(self, sources: torch.Tensor, targets: torch.Tensor) -> None:
        """Copy rows to other indices, int64 [N]."""
        self._integers_5B[:, targets] = self._integers_5B[:, sources]
        self._reals_4B[:, targets] = self._reals_4B[:, sources]
        self.stops_BV[targets] = self.stops_BV[sources]

    def first(self, num_rows: int) -> "Rows":
        """Return a view of the first rows."""
        rows = Rows.__new__(Rows)
        rows._integers_5B, rows._reals_4B = self._integers_5B[:, :num_rows], self._reals_4B[:, :num_rows]
        rows.stops_BV = self.stops_BV[:num_rows]
        rows._name()
        return rows


@dataclass(frozen=True, slots=True)
class Kind:
    """What a step has to compute for the rows of a batch; unused options cost nothing.

    Args:
        samples: at least one row is not greedy, so probabilities are needed.
        sorts: at least one of these has top-k or top-p, so probabilities must be sorted.
        penalises: at least one row has a repetition penalty, so seen tokens are needed.
        scores: at least one row asks for log-probabilities.
        ngram: the longest n-gram that must not be repeated in any row, rounded up to a power of two, since a step is
            recorded once for each kind; 0: none.
    """

    samples: bool
    penalises: bool
    sorts: bool = False
    scores: bool = False
    ngram: int = 0

    @classmethod
    def of(cls, requests: Sequence[Request]) -> "Kind":
        ngram = max((request.decoding.no_repeat_ngram_size for request in requests), default=0)
        return cls(
            any(request.decoding.temperature > 0 for request in requests),
            any(request.decoding.repetition_penalty != 1 for request in requests),
            any(
                request.decoding.temperature > 0 and (request.decoding.top_k > 0 or request.decoding.top_p < 1)
                for request in requests
            ),
            any(request.decoding.num_logprobs is not None for request in requests),
            1 << (ngram - 1).bit_length() if ngram else 0,
        )


def without(logits_BV: torch.Tensor, unknown: torch.Tensor) -> torch.Tensor:
    """Exclude the tokens `unknown` (int64); changes the logits in place."""
    return logits_BV.index_fill_(1, unknown, -torch.inf) if len(unknown) else logits_BV


def choose(logits_BV: torch.Tensor, rows: Rows, steps_B: torch.Tensor, kind: Kind) -> torch.Tensor:
    """Choose each row's next token.

    A sample is the first token, in the order of the vocabulary, at which the sum of the kept tokens' probabilities
    exceeds a random share of their total. So only top-k and top-p need probabilities that are sorted, which takes most
    of the time of choosing where the vocabulary is large; and beside rows that need them, a row samples the same token.

    Args:
        logits_BV: fp32 or fp64, see `repeats.Repeats.changed`.
        steps_B: number of tokens of each reply so far, int64; with seed and number it determines the sample.
        kind: what these rows need, and maybe more.

    Returns:
        int64 [B].
    """
    greedy_B = logits_BV.argmax(dim=1)
    if not kind.samples:
        return greedy_B
    temperature_B = finite(rows.temperature_B, logits_BV.dtype)
    is_greedy_B = temperature_B == 0
    # `masked_fill`, since `where` would copy a scalar from the host, which is not possible in a recorded step.
    # The largest logit is made 0 first, so that even a very low temperature does not overflow.
    scaled_BV = logits_BV - logits_BV.gather(1, greedy_B[:, None])
    scaled_BV /= temperature_B.masked_fill(is_greedy_B, 1)[:, None]
    probabilities_BV = torch.softmax(scaled_BV, dim=1)
    largest_B1 = probabilities_BV.amax(dim=1, keepdim=True)
    least_B1 = rows.min_p_B.to(largest_B1.dtype)[:, None] * largest_B1
    kept_BV = probabilities_BV >= least_B1.clamp_min(torch.finfo(least_B1.dtype).tiny)
    if kind.sorts:
        kept_BV &= _in_top(probabilities_BV, rows)
    mass_BV = probabilities_BV.masked_fill(~kept_BV, 0).cumsum(dim=1).masked_fill(~kept_BV, 0)
    # The largest, not the last: sums of a GPU, which adds up parts of a row, need not grow from each token to the next.
    total_B = mass_BV.amax(dim=1)
    # Rounding must not make the sample the whole sum, which no token exceeds.
    sampled_B = _uniform(rows.seeds_B, rows.numbers_B, steps_B).to(total_B.dtype) * total_B
    sampled_B = sampled_B.minimum(total_B.nextafter(torch.zeros_like(total_B)))
    drawn_B = (mass_BV > sampled_B[:, None]).to(torch.uint8).argmax(dim=1)
    return torch.where(is_greedy_B, greedy_B, drawn_B)


def _in_top(probabilities_BV: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Return which tokens stay after top-k and then top-p, bool [B, V]; the most likely one always does."""
    sorted_BV, order_BV = probabilities_BV.sort(dim=1, descending=True)
    has_k_B1 = rows.top_k_B[:, None] > 0
    places_V = torch.arange(sorted_BV.shape[1], device=sorted_BV.device)
    top_BV = sorted_BV.masked_fill(places_V >= rows.top_k_B[:, None], 0)
    top_BV /= top_BV.sum(dim=1, keepdim=True).masked_fill(~has_k_B1, 1)
    sorted_BV = torch.where(has_k_B1, top_BV, sorted_BV)
    # The smallest set whose mass reaches top_p. Rounded sums may reach 1 before the last token, so 1 keeps all of them.
    before_BV = sorted_BV.cumsum(dim=1) - sorted_BV
    top_p_B1 = rows.top_p_B.to(before_BV.dtype)[:, None]
    kept_BV = ((before_BV < top_p_B1) | (top_p_B1 >= 1)) & (sorted_BV > 0)
    kept_BV[:, 0] = True
    return torch.zeros_like(kept_BV).scatter_(1, order_BV, kept_BV)


def scores(
    logits_BV: torch.Tensor, chosen_B: torch.Tensor, num: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return log-probabilities by the model itself, before temperature and penalty, as natural logarithms.

    Args:
        logits_BV: fp32 or fp64, not penalised, without the tokens that are never chosen.
        chosen_B: the chosen tokens, int64.
        num: how many of the most probable tokens.

    Returns:
        Those of the chosen tokens [B], and those of the most probable ones with their ids [B, K], where K is `num` or
        the size of the vocabulary.
    """
    total_B1 = logits_BV.logsumexp(dim=1, keepdim=True)
    top_BK, ids_BK = logits_BV.topk(min(num, logits_BV.shape[1]), dim=1)
    return (logits_BV.gather(1, chosen_B[:, None]) - total_B1).squeeze(1), top_BK - total_B1, ids_BK


def finite(reals_B: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return numbers in another format, those too large for it as its largest: 0 or infinity times infinity is NaN."""
    return reals_B.clamp_max(torch.finfo(dtype).max).to(dtype)


def _uniform(seeds_B: torch.Tensor, numbers_B: torch.Tensor, steps_B: torch.Tensor) -> torch.Tensor:
    """Return a number above 0 and below 1 with 24 random bits for each row, fp64; seeds have 32 bits."""
    x = seeds_B
    for number in (numbers_B, steps_B):
        x = lowbias32(lowbias32(x + GOLDEN) + number + GOLDEN)
    # With 0, the first token of the vocabulary would be drawn, however improbable it is.
    return ((x >> 8).double() + 0.5) / 2**24
