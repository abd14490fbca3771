"""Beam search on the generic path: by a cache whose rows branch, or by reading each text whole.

Shapes: R rows, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch

from falconer import runtime
from falconer.model.generate.beams import beam_search
from falconer.model.generate.generic_prefix import Computed, PrefixPass
from falconer.model.generate.key_values import new_cache, select, skip
from falconer.model.request import Request


class BranchingBeams:
    """See `beams.Extending`: rows whose prompts were computed once."""

    def __init__(self, forward: PrefixPass, requests: Sequence[Request], computed: Sequence[Computed]) -> None:
        self._forward, self._states = forward, torch.cat([one.state for one in computed])
        self._cached = [len(request.prompt) for request in requests]
        most = max(request.decoding.max_new_tokens for request in requests)
        self._cache = new_cache([one.cache for one in computed], max(self._cached), most)

    def first(self) -> torch.Tensor:
        """See `beams.Extending.first`."""
        return self._forward.logits(self._states)

    def next(self, sources: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """See `beams.Extending.next`."""
        select(self._cache, sources)
        cached = [self._cached[source] for source in sources]
        skip(self._cache, max(cached))
        places = [(row, 0) for row in range(len(tokens))]
        states = self._forward.read(self._cache, cached, [[token] for token in tokens], places)
        self._cached = [num + 1 for num in cached]
        return self._forward.logits(states)


class ReadingBeams:
    """See `beams.Extending`: a model whose cache can't branch reads every text whole, one after the other."""

    def __init__(self, model: Any, autocast: torch.dtype | None, requests: Sequence[Request]) -> None:
        self._model, self._autocast = model, autocast
        self._device = next(model.parameters()).device
        self._texts = [list(request.prompt) for request in requests]

    def first(self) -> torch.Tensor:
        """See `beams.Extending.first`."""
        return self._logits()

    def next(self, sources: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """See `beams.Extending.next`."""
        self._texts = [[*self._texts[source], token] for source, token in zip(sources, tokens, strict=True)]
        return self._logits()

    def _logits(self) -> torch.Tensor:
        rows = []
        for text in self._texts:
            with runtime.autocast(self._device.type, self._autocast):
                output = self._model(input_ids=torch.tensor([text], device=self._device), use_cache=False)
            rows.append(output.logits[:, -1].float())
        return torch.cat(rows)


def branching_beams(
    forward: PrefixPass, requests: Sequence[Request], computed: Sequence[Computed], unknown: torch.Tensor
) -> list[list[int]]:
    """Return the replies to prompts that were computed; see `beam_search`."""
    return beam_search(BranchingBeams(forward, requests, computed), requests, unknown)


@torch.inference_mode()
def reading_beams(
    model: Any, autocast: torch.dtype | None, requests: Sequence[Request], unknown: torch.Tensor
) -> list[list[int]]:
    """Return the replies of a model without a cache that branches; see `beam_search`."""
    return beam_search(ReadingBeams(model, autocast, requests), requests, unknown)
