"""Generating replies token by token in slots; a finished reply frees its slot for the next one.

A slot has a position in the prefix cache, a tail for the reply's own keys, the reply's tokens so far, and its decoding.
All of it is on the device, so that a step is always the same work, whatever the requests: on a GPU it is recorded once
as a CUDA graph, and then replayed with a single launch, where 32 blocks would need about 400.

Shapes: B slots, T most tokens of a reply, V vocabulary, L layers, P tokens of the prefix cache, O tokens of the tails,
G key/value heads, H head size, M tokens of a pass, N outputs of the projection, D hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from falconer.kernels.formats import Branches
from falconer.model.falcon.graph import recorded
from falconer.model.falcon.infer_pass import Forward
from falconer.model.generate.repeats import Repeats
from falconer.model.generate.running import as_said
from falconer.model.generate.sampling import Kind, Rows, choose, scores, without
from falconer.model.generate.transfer import on_device
from falconer.model.request import MOST_LOGPROBS, Request, Said

# Number of prompts whose first tokens are chosen together.
CHUNK_ROWS = 512


@dataclass(frozen=True, slots=True)
class Entering:
    """A reply with its first token, ready for a slot.

    Args:
        start: where the keys of its prompt start in the prefix cache.
        first: its first token.
        adapter: the number of its adapter, see `Forward.adapters`.
    """

    request: Request
    start: int
    first: int
    adapter: int = 0


class Slots:
    """The slots of replies that are being generated.

    Args:
        cache_LPG2H: the prefix cache with their prompts.
        tails_LOG2H: the cache for their own keys; may be the prefix cache.
        tail_starts_B: where the keys of each slot start in it, int64; a slot without a reply writes there, too.
        most: maximum number of tokens of a reply.
        most_prompt: maximum number of tokens of a prompt.
        unknown: tokens that are never generated, int64.
    """

    def __init__(
        self, forward: Forward, cache_LPG2H: torch.Tensor, tails_LOG2H: torch.Tensor, tail_starts_B: torch.Tensor,
        most: int, most_prompt: int, unknown: torch.Tensor,
    ) -> None:  # fmt: skip
        device, self.num_slots = forward.path.device, len(tail_starts_B)
        self.forward, self.unknown, self.most = forward, unknown, most
        self.cache_LPG2H, self.tails_LOG2H = cache_LPG2H, tails_LOG2H
        # An even width aligns each column to 16 bytes, which kernels read fastest.
        width = self.num_slots + self.num_slots % 2
        self._columns_5B = torch.zeros(5, width, dtype=torch.int64, device=device)[:, : self.num_slots]
        self.tail_starts_B, self.counts_B, *others = self._columns_5B
        self.prefix_starts_B, self.prefix_lengths_B, self.adapters_B = others
        self.tail_starts_B.copy_(tail_starts_B)
        self.counts_B.fill_(1)
        self.tokens_BT = torch.zeros(self.num_slots, most, dtype=torch.int64, device=device)
        self.alive_B = torch.zeros(self.num_slots, dtype=torch.bool, device=device)
        # What the last step chose, and whether each reply goes on.
        self.said_2B = torch.zeros(2, self.num_slots, dtype=torch.int64, device=device)
        # The log-probabilities of the chosen tokens, those of the most probable ones, and which these are.
        num = min(MOST_LOGPROBS, forward.head.out_features)
        self.logprobs_B = torch.zeros(self.num_slots, dtype=torch.float64, device=device)
        self.top_BK = torch.zeros(self.num_slots, num, dtype=torch.float64, device=device)
        self.top_ids_BK = torch.zeros(self.num_slots, num, dtype=torch.int64, device=device)
        self.rows = Rows(self.num_slots, forward.head.out_features, device)
        self.repeats = Repeats(self.num_slots, forward.head.out_features, most_prompt, device)
        self.records = device.type == "cuda"
        self._graphs: dict[tuple[int, Kind], torch.cuda.CUDAGraph] = {}

    def fill(
        self, slots: Sequence[int], entering: Sequence[Entering], tail_starts: Sequence[int] | None = None
    ) -> None:
        """Put replies into free slots.

        Args:
            slots: the slots.
            tail_starts: where their own keys start; None: unchanged.
        """
        device, requests = self.forward.path.device, [one.request for one in entering]
        columns = [slots, [one.first for one in entering], [one.start for one in entering]]
        columns += [[len(request.prompt) for request in requests], [one.adapter for one in entering]]
        at, firsts_B, starts_B, lengths_B, adapters_B = on_device([list(column) for column in columns], device)
        self.prefix_starts_B[at], self.prefix_lengths_B[at], self.adapters_B[at] = starts_B, lengths_B, adapters_B
        self.tokens_BT[at, 0], self.counts_B[at], self.alive_B[at] = firsts_B, 1, True
        if tail_starts is not None:
            self.tail_starts_B[at] = on_device(list(tail_starts), device)
        self.rows.put(slots, requests)
        self.repeats.put(slots, requests, [[one.first] for one in entering])

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Move replies to other, free slots, and swap the tails of both."""
        if not sources:
            return
        source, target = on_device([list(sources), list(targets)], self.forward.path.device)
        free = self.tail_starts_B[target]
        for column in (self.tokens_BT, self.alive_B):
            column[target] = column[source]
        self._columns_5B[:, target] = self._columns_5B[:, source]
        self.rows.move(source, target)
        self.repeats.move(source, target)
        self.tail_starts_B[source] = free
        self.alive_B[source] = False

    def leave(self, slots: slice, tail_starts_B: torch.Tensor) -> None:
        """Free slots whose prompts and tails will be reused: from now on they write to `tail_starts_B`, int64."""
        self.alive_B[slots] = False
        self.tail_starts_B[slots] = tail_starts_B
        self.counts_B[slots], self.prefix_lengths_B[slots] = 1, 0

    def advance(self, num: int, kind: Kind) -> None:
        """Give every unfinished reply in the first `num` slots its next token.

        Args:
            kind: what the replies in these slots need.
        """
        if not self.records:
            self.step(num, kind)
            return
        if (num, kind) not in self._graphs:
            # All slots are inactive while kernels are compiled: no reply changes, and keys are written where the next
            # step writes the same ones.
            alive_B = self.alive_B.clone()
            self.alive_B.zero_()
            try:
                self._graphs[num, kind] = recorded(lambda: self.step(num, kind), self.forward.path.device)
            finally:
                self.alive_B.copy_(alive_B)
        self._graphs[num, kind].replay()

    def said(self, requests: Sequence[Request]) -> tuple[list[Said], list[bool]]:
        """Return what the last step gave the replies in the first slots, and whether each goes on."""
        num = len(requests)
        tokens, alive = self.said_2B[:, :num].tolist()
        if not Kind.of(requests).scores:
            return [Said(token) for token in tokens], list(map(bool, alive))
        columns = (column[:num].tolist() for column in (self.logprobs_B, self.top_BK, self.top_ids_BK))
        return [as_said(*one) for one in zip(requests, tokens, *columns, strict=True)], list(map(bool, alive))

    def replies(self, slots: Sequence[int]) -> list[list[int]]:
        """Return the tokens of replies."""
        at = on_device(list(slots), self.forward.path.device)
        pairs = zip(self.tokens_BT[at].tolist(), self.counts_B[at].tolist(), strict=True)
        return [tokens[:count] for tokens, count in pairs]

    def step(self, num: int, kind: Kind) -> None:
        """Do one step without a recorded graph."""
        forward, heads, rows = self.forward, self.forward.heads, self.rows.first(num)
        tails_B, counts_B, starts_B, lengths_B, adapters_B = self._columns_5B[:, :num]
        alive_B, tokens_BT = self.alive_B[:num], self.tokens_BT[:num]
        last_B = counts_B - 1
        branches = Branches(num, 1, None, starts_B, lengths_B, tails_B, counts_B)
        places_B = tails_B + last_B

        def attend(number: int, qkv_MN: torch.Tensor) -> torch.Tensor:
            tails_OG2H = self.tails_LOG2H[number]
            tails_OG2H.index_copy_(0, places_B, forward.key_values(qkv_MN))
            return forward.ops.branch_attention(qkv_MN, self.cache_LPG2H[number], tails_OG2H, branches, heads)

        ids_B = tokens_BT.gather(1, last_B[:, None]).squeeze(1)
        hidden_BD = forward.hidden_states(
            ids_B, lengths_B + last_B, attend, adapters_M=adapters_B if forward.adapters else None
        )
        plain_BV = without(forward.logits(hidden_BD), self.unknown)
        logits_BV = self.repeats.changed(plain_BV, rows, kind, tokens_BT, counts_B)
        chosen_B = choose(logits_BV, rows, counts_B, kind)
        if kind.scores:
            found = scores(plain_BV, chosen_B, self.top_BK.shape[1])
            self.logprobs_B[:num], self.top_BK[:num], self.top_ids_BK[:num] = found
        # A finished reply is not changed, whatever is computed in its slot.
        next_B1 = counts_B.clamp_max(self.most - 1)[:, None]
        kept_B1 = tokens_BT.gather(1, next_B1)
        tokens_BT.scatter_(1, next_B1, torch.where(alive_B[:, None], chosen_B[:, None], kept_B1))
        self.repeats.add(chosen_B, kind, alive_B)
        counts_B += alive_B
        alive_B &= ~rows.stops_BV.gather(1, chosen_B[:, None]).squeeze(1) & (counts_B < rows.limits_B)
        self.said_2B[0, :num], self.said_2B[1, :num] = chosen_B, alive_B


def first_tokens(
    forward: Forward, hidden_SD: torch.Tensor, requests: Sequence[Request], unknown: torch.Tensor
) -> list[int]:
    """Return the first token of each reply; see `first_said`."""
    return [said.token for said in first_said(forward, hidden_SD, requests, unknown)]


def first_said(
    forward: Forward, hidden_SD: torch.Tensor, requests: Sequence[Request], unknown: torch.Tensor
) -> list[Said]:
    """Return the first token of each reply, with the log-probabilities that its request asks for.

    Args:
        hidden_SD: the last norm's output at the end of each request's prompt.
        unknown: tokens that are never chosen, int64.
    """
    device = forward.path.device
    firsts: list[Said] = []
    for start in range(0, len(requests), CHUNK_ROWS):
        some = requests[start : start + CHUNK_ROWS]
        plain_BV = without(forward.logits(hidden_SD[start : start + CHUNK_ROWS]), unknown)
        rows, kind = Rows.of(some, plain_BV.shape[1], device), Kind.of(some)
        repeats = Repeats.of(some, [()] * len(some), plain_BV.shape[1], device)
        steps_B = torch.zeros(len(some), dtype=torch.int64, device=device)
        logits_BV = repeats.changed(plain_BV, rows, kind, steps_B[:, None][:, :0], steps_B)
        chosen_B = choose(logits_BV, rows, steps_B, kind)
        if not kind.scores:
            firsts += [Said(token) for token in chosen_B.tolist()]
            continue
        columns = (chosen_B, *scores(plain_BV, chosen_B, MOST_LOGPROBS))
        firsts += [as_said(*one) for one in zip(some, *(column.tolist() for column in columns), strict=True)]
    return firsts
