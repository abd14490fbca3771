"""What a reply must not repeat: the repetition penalty, and n-grams that must not occur twice.

Both count the reply itself and, by their scope, the same speaker's earlier turns or the whole prompt. Stop tokens are
exempt from both, since every turn ends with one. Everything is on the device, and a step computes it without waiting,
so it is part of a recorded step.

Shapes: B rows, V vocabulary, C tokens of the context with padding, T most tokens of a reply, L = C + T, P places.
"""

from collections.abc import Sequence

import numpy as np
import torch

from falconer.decoding_limits import MOST_NGRAM
from falconer.model.generate.sampling import Kind, Rows, finite
from falconer.model.generate.transfer import on_device
from falconer.model.request import Request

# In a context: no token. No n-gram goes across it.
_NONE = -1


class Repeats:
    """What the rows of a batch have said, and what of their prompts counts.

    Args:
        num_rows: number of rows.
        vocabulary: outputs of the model's head.
        most_prompt: tokens of the longest prompt.
    """

    def __init__(self, num_rows: int, vocabulary: int, most_prompt: int, device: torch.device) -> None:
        self._num_rows, self._vocabulary, self._device = num_rows, vocabulary, device
        # Before and behind the prompt is padding: an n-gram is looked for at every place in the same way.
        self._width = MOST_NGRAM + most_prompt + 1
        # See `_make`.
        self._seen_BV: torch.Tensor | None = None
        self._context_BC: torch.Tensor | None = None

    @classmethod
    def of(
        cls, requests: Sequence[Request], said: Sequence[Sequence[int]], vocabulary: int, device: torch.device
    ) -> "Repeats":
        """Return those of a fixed batch; see `put`."""
        repeats = cls(len(requests), vocabulary, max(len(request.prompt) for request in requests), device)
        repeats.put(range(len(requests)), requests, said)
        return repeats

    def put(self, at: Sequence[int], requests: Sequence[Request], said: Sequence[Sequence[int]]) -> None:
        """Let the rows `at` be those of requests.

        Args:
            said: the tokens of each reply so far.
        """
        self._make(Kind.of(requests))
        places = on_device(list(at), self._device)
        if self._seen_BV is not None:
            self._seen_BV[places] = False
            pairs = [
                (row, token)
                for row, request, tokens in zip(at, requests, said, strict=True)
                if request.decoding.repetition_penalty != 1
                for part in (*request.within(request.decoding.repetition_penalty_scope), tokens)
                for token in part
            ]
            if pairs:
                rows, tokens = on_device(pairs, self._device).T
                self._seen_BV[rows, tokens] = True
        if self._context_BC is not None:
            self._context_BC[places] = on_device(
                np.stack([_context(one, self._width) for one in requests]), self._device
            )

    def move(self, sources: torch.Tensor, targets: torch.Tensor) -> None:
        """Copy rows to other indices, int64 [N]."""
        for column in (self._seen_BV, self._context_BC):
            if column is not None:
                column[targets] = column[sources]

    def changed(
        self, logits_BV: torch.Tensor, rows: Rows, kind: Kind, said_BT: torch.Tensor, counts_B: torch.Tensor
    ) -> torch.Tensor:
        """Return the logits of the first rows with penalty, and with -inf for what would repeat an n-gram.

        Args:
            logits_BV: logits or log-probabilities, fp32 or fp64.
            kind: what these rows need, and maybe more.
            said_BT: the tokens of each reply, whatever stands behind them, int64; needed for n-grams.
            counts_B: how many tokens each reply has, int64.
        """
        num = len(logits_BV)
        self._make(kind)
        if kind.penalises and self._seen_BV is not None:
            logits_BV = penalised(logits_BV, self._seen_BV[:num], rows)
        if kind.ngram and self._context_BC is not None:
            history_BL = torch.cat([self._context_BC[:num], said_BT], dim=1)
            ends_B = self._width + counts_B
            logits_BV = without_repeats(logits_BV, history_BL, ends_B, rows, kind.ngram)
        return logits_BV

    def add(self, tokens_B: torch.Tensor, kind: Kind, is_new_B: torch.Tensor | None = None) -> None:
        """Note what the first rows have said.

        Args:
            is_new_B: False where a row said nothing more, bool; None: every row said its token.
        """
        if not kind.penalises or self._seen_BV is None:
            return
        seen_BV, tokens_B1 = self._seen_BV[: len(tokens_B)], tokens_B[:, None]
        is_new_B1 = torch.ones_like(tokens_B1, dtype=torch.bool) if is_new_B is None else is_new_B[:, None]
        seen_BV.scatter_(1, tokens_B1, seen_BV.gather(1, tokens_B1) | is_new_B1)

    def _make(self, kind: Kind) -> None:
        """Make what rows of a kind need, if it is not there yet; from then on it stays where it is.

        A step of this kind that is recorded before any of these rows is there reads it, too.
        """
        if kind.penalises and self._seen_BV is None:
            self._seen_BV = torch.zeros(self._num_rows, self._vocabulary, dtype=torch.bool, device=self._device)
        if kind.ngram and self._context_BC is None:
            self._context_BC = torch.full((self._num_rows, self._width), _NONE, device=self._device)


def penalised(logits_BV: torch.Tensor, seen_BV: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Apply the repetition penalty to tokens that were seen (Keskar et al. 2019, arXiv:1909.05858).

    As in transformers, positive logits are divided and negative ones multiplied. Stop tokens are unchanged.

    Args:
        seen_BV: bool.
    """
    penalty_B1 = finite(rows.penalty_B, logits_BV.dtype)[:, None]
    changed_BV = torch.where(logits_BV > 0, logits_BV / penalty_B1, logits_BV * penalty_B1)
    return torch.where(seen_BV & ~rows.stops_BV, changed_BV, logits_BV)


def without_repeats(
    logits_BV: torch.Tensor, history_BL: torch.Tensor, ends_B: torch.Tensor, rows: Rows, most: int
) -> torch.Tensor:
    """Exclude the tokens that would complete an n-gram which the history has already (Paulus et al. 2017).

    Stop tokens are unchanged, and so is a row in which no other token would be left.

    Args:
        history_BL: what counts of the prompt, then the reply, then anything, int64; at least `most` - 1 tokens of
            padding come first, and no n-gram goes across a negative number.
        ends_B: where each row's history ends, int64.
        most: the longest n-gram of any row.
    """
    length, device = history_BL.shape[1], history_BL.device
    next_BP = history_BL[:, most - 1 :]
    places_P = torch.arange(most - 1, length, device=device)
    is_repeat_BP = (next_BP >= 0) & (places_P < ends_B[:, None]) & (rows.ngrams_B[:, None] > 0)
    for back in range(1, most):
        last_B1 = history_BL.gather(1, ends_B[:, None] - back)
        is_same_BP = (history_BL[:, most - 1 - back : length - back] == last_B1) & (last_B1 >= 0)
        is_repeat_BP &= is_same_BP | (rows.ngrams_B[:, None] <= back)
    # What is no repetition is written to a token beyond the vocabulary.
    vocabulary = logits_BV.shape[1]
    excluded_BV = torch.zeros(len(logits_BV), vocabulary + 1, dtype=torch.bool, device=device)
    excluded_BV.scatter_(1, next_BP.masked_fill(~is_repeat_BP, vocabulary), True)
    left_BV = logits_BV.masked_fill(excluded_BV[:, :vocabulary] & ~rows.stops_BV, -torch.inf)
    return torch.where(left_BV.amax(dim=1, keepdim=True) > -torch.inf, left_BV, logits_BV)


def _context(request: Request, width: int) -> np.ndarray:
    """Return what of a prompt counts for n-grams, at the end of a row of padding, int64 [C]."""
    scope, row = request.decoding.no_repeat_ngram_scope, np.full(width, _NONE, dtype=np.int64)
    if request.decoding.no_repeat_ngram_size:
        ids: list[int] = []
        for part in request.within(scope):
            # In transformers' rule, which counts the whole prompt, an n-gram may go from the prompt into the reply.
            ids += part if scope == "prompt" else [*part, _NONE]
        row[width - len(ids) :] = ids
    return row
