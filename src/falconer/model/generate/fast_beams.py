"""Beam search on the fast path: each prompt is computed once, and its beams share its keys.

Shapes: R rows, L layers, P tokens of the prefix cache, T most tokens of a reply, G key/value heads, H head size, S
requests, D hidden, M tokens of a pass, N outputs of the projection, V vocabulary.
"""

from collections.abc import Iterator, Sequence

import torch

from falconer.kernels.formats import Branches
from falconer.model.falcon.infer_pass import Forward
from falconer.model.generate.beams import batches_of_beams, beam_search
from falconer.model.generate.prefix import group_by_prefix, new_prefix_cache, prefill, split_groups
from falconer.model.generate.transfer import on_device
from falconer.model.request import Request


class FastBeams:
    """See `beams.Extending`.

    Args:
        cache_LPG2H: the prefix cache with the prompts.
        starts: where the keys of each prompt start in it.
        hidden_SD: the last norm's output at the end of each prompt.
    """

    def __init__(
        self, forward: Forward, requests: Sequence[Request], cache_LPG2H: torch.Tensor, starts: Sequence[int],
        hidden_SD: torch.Tensor,
    ) -> None:  # fmt: skip
        self._forward, self._cache_LPG2H, self._hidden_SD = forward, cache_LPG2H, hidden_SD
        self._most = max(request.decoding.max_new_tokens for request in requests)
        num_rows = sum(request.decoding.num_beams for request in requests)
        self._tails_LOG2H = forward.new_cache(num_rows * self._most)
        self._count = 0
        lengths = [len(request.prompt) for request in requests]
        self._prompts_2R = on_device([list(starts), lengths], forward.path.device)

    def first(self) -> torch.Tensor:
        """See `beams.Extending.first`."""
        return self._forward.logits(self._hidden_SD)

    def next(self, sources: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """See `beams.Extending.next`."""
        forward, heads, num, device = self._forward, self._forward.heads, len(sources), self._forward.path.device
        sources_R, ids_R = on_device([list(sources), list(tokens)], device)
        tails_LRTG2H = self._tails_LOG2H.unflatten(1, (-1, self._most))
        tails_LRTG2H[:, :num, : self._count] = tails_LRTG2H[:, sources_R, : self._count]
        self._prompts_2R = self._prompts_2R[:, sources_R]
        starts_R, lengths_R = self._prompts_2R
        tails_R = torch.arange(num, device=device) * self._most
        places_R, positions_R = tails_R + self._count, lengths_R + self._count
        self._count += 1
        branches = Branches(num, 1, None, starts_R, lengths_R, tails_R, torch.full_like(tails_R, self._count))

        def attend(number: int, qkv_MN: torch.Tensor) -> torch.Tensor:
            tails_OG2H = self._tails_LOG2H[number]
            tails_OG2H.index_copy_(0, places_R, forward.key_values(qkv_MN))
            return forward.ops.branch_attention(qkv_MN, self._cache_LPG2H[number], tails_OG2H, branches, heads)

        return forward.logits(forward.hidden_states(ids_R, positions_R, attend))


@torch.inference_mode()
def decode_beams(
    forward: Forward, requests: Sequence[Request], unknown: torch.Tensor, num_rows: int, share: float = 1.0
) -> Iterator[tuple[int, list[int]]]:
    """Yield (index of the request, token ids of its reply), the longest dialogues first; see `beams.beam_search`.

    Args:
        unknown: tokens that are never generated, int64.
        num_rows: maximum number of beams of all requests at the same time; a request may have more alone.
        share: factor for the sizes of cache and passes, 0-1; below 1 after memory ran out.
    """
    groups = group_by_prefix([request.prompt for request in requests])
    lengths = [len(request.prompt) for request in requests]
    cache_LPG2H = new_prefix_cache(forward, groups, share)
    for part in split_groups(groups, cache_LPG2H.shape[1]):
        found = prefill(forward, part, lengths, cache_LPG2H, share)
        at = 0
        for batch in batches_of_beams(found.numbers, requests, num_rows):
            places = slice(at, at + len(batch))
            at += len(batch)
            asked = [requests[number] for number in batch]
            model = FastBeams(forward, asked, cache_LPG2H, found.starts[places], found.hidden[places])
            yield from zip(batch, beam_search(model, asked, unknown), strict=True)
