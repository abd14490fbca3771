"""Passes over the prompts that join the running batch: on a GPU they are recorded once for each size, and replayed.

A pass over a few prompts takes the GPU hardly longer than its weights take to be read, but Python starts some 400
kernels for it, while all replies wait. A recorded pass is a single launch. Its size is one of few; the tokens that are
left over are a prompt of their own, whose keys go to a token of the cache that nobody reads.

Shapes: M tokens of a pass, S prompts, L layers, P tokens of the cache, G key/value heads, H head size, D hidden.
"""

from collections.abc import Sequence

import numpy as np
import torch

from falconer.kernels.formats import Branches
from falconer.model.falcon.graph import recorded
from falconer.model.falcon.infer_pass import Forward
from falconer.model.generate.prefix import Extension, extend
from falconer.model.generate.transfer import on_device

# The sizes of recorded passes: tokens, and prompts. A larger pass keeps a GPU busy for longer than its launches take,
# and to fill it up would cost more than they do.
SIZES = tuple((tokens, tokens // 16) for tokens in (128, 256, 384, 512, 640, 768, 896, 1024))


class PromptPass:
    """Computes further tokens of several rows of a cache, and stores their keys.

    Args:
        spare: a token of the cache that no reply reads.
    """

    def __init__(self, forward: Forward, cache_LPG2H: torch.Tensor, spare: int) -> None:
        self._forward, self._cache_LPG2H, self._spare = forward, cache_LPG2H, spare
        self.records = forward.path.device.type == "cuda"
        self._recorded: dict[tuple[int, int], _RecordedPass] = {}

    def __call__(self, extensions: Sequence[Extension]) -> torch.Tensor:
        """Return the last output of each extension, [S, D]."""
        num_tokens = sum(len(one.ids) for one in extensions)
        size = next((size for size in SIZES if size[0] >= num_tokens and size[1] >= len(extensions)), None)
        if size is None or not self.records:
            return extend(self._forward, extensions, self._cache_LPG2H)
        if size not in self._recorded:
            self._recorded[size] = _RecordedPass(self._forward, self._cache_LPG2H, *size)
        return self._recorded[size](extensions, self._spare)


class _RecordedPass:
    """A pass over `num_tokens` tokens of at most `num_prompts` prompts."""

    def __init__(self, forward: Forward, cache_LPG2H: torch.Tensor, num_tokens: int, num_prompts: int) -> None:
        self._forward, self._cache_LPG2H, self._device = forward, cache_LPG2H, forward.path.device
        self._num_tokens, self._num_prompts = num_tokens, num_prompts
        # One buffer, so that one copy brings everything to the device; with one prompt more, of the tokens left over.
        self._sizes = (*[num_tokens] * 4, num_prompts + 2, *[num_prompts + 1] * 4)
        self._inputs = torch.zeros(sum(self._sizes), dtype=torch.int64, device=self._device)
        self._hidden_SD: torch.Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, extensions: Sequence[Extension], spare: int) -> torch.Tensor:
        self._inputs.copy_(on_device(self._columns(extensions, spare), self._device))
        if self._graph is None:
            # To compute the same tokens again stores the same keys again.
            self._graph = recorded(self._compute, self._device)
        self._graph.replay()
        assert self._hidden_SD is not None, "the pass was computed while it was recorded"
        return self._hidden_SD[: len(extensions)].clone()

    def _columns(self, extensions: Sequence[Extension], spare: int) -> np.ndarray:
        """Return what the pass reads, int64 [sum of the sizes]."""
        counts = [len(one.ids) for one in extensions]
        num_left = self._num_tokens - sum(counts)
        ids = np.zeros(self._num_tokens, dtype=np.int64)
        positions, adapters = np.zeros_like(ids), np.zeros_like(ids)
        places = np.full_like(ids, spare)
        begin = 0
        for one, count in zip(extensions, counts, strict=True):
            part = slice(begin, begin + count)
            ids[part], positions[part], adapters[part] = one.ids, np.arange(one.known, one.known + count), one.adapter
            places[part] = one.start + positions[part]
            begin += count
        # Prompts that are not there have no tokens.
        own = np.array([*counts, *[0] * (self._num_prompts - len(counts)), num_left], dtype=np.int64)
        borders = np.append(0, own.cumsum())
        starts, known = np.zeros_like(own), np.zeros_like(own)
        starts[: len(counts)] = [one.start for one in extensions]
        known[: len(counts)] = [one.known for one in extensions]
        ends = np.maximum(borders[1:] - 1, 0)
        return np.concatenate([ids, positions, places, adapters, borders, starts, known, own, ends])

    def _compute(self) -> None:
        forward = self._forward
        ids_M, positions_M, places_M, adapters_M, borders_S, starts_S, known_S, counts_S, ends_S = self._inputs.split(
            self._sizes
        )
        branches = Branches(
            self._num_prompts + 1, self._num_tokens, borders_S, starts_S, known_S, borders_S[:-1], counts_S
        )  # fmt: skip

        def attend(number: int, qkv_MN: torch.Tensor) -> torch.Tensor:
            own_MG2H = forward.key_values(qkv_MN)
            self._cache_LPG2H[number].index_copy_(0, places_M, own_MG2H)
            return forward.ops.branch_attention(qkv_MN, self._cache_LPG2H[number], own_MG2H, branches, forward.heads)

        which = adapters_M if forward.adapters else None
        self._hidden_SD = forward.hidden_states(ids_M, positions_M, attend, ends_S, which)
