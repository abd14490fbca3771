"""Replies token by token in slots: a finished reply leaves its slot, and the next one enters.

A slot is a place in the prefix cache, a tail of its own for the reply's keys, and the reply's tokens so far. All of it
lives on the device, so that a step is the same work each time: on a GPU it is recorded once as a CUDA graph, and then
replayed by a single launch where 32 blocks would take some 400.

Shapes: B slots, T most tokens of a reply, V vocabulary, L layers, P tokens of the prefix cache, O = B * T tokens of the
tails, H head size, M tokens of a pass, N outputs of the projection, D hidden.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch

from falconer import runtime
from falconer.kernels.formats import Branches
from falconer.model.falcon.infer_pass import Forward
from falconer.model.generate.prefix import Prefilled, cache_room, families_of, prefill, split_families
from falconer.model.generate.sampling import Decoding, choose, penalised

# Slots unless told otherwise. A GPU's number stays while the last replies are written: recording a step for fewer runs
# it twice and its Python three times, for at most `max_new_tokens` shorter steps.
MOST_SLOTS = 1024
# Share of free memory that all slots take at most.
MOST_OF_FREE = 0.25
# Logits exist in the weights' format and in fp32; sorting them for top-p takes probabilities, places and sums.
LOGIT_BYTES = {False: 8, True: 32}
# Rows of prompts whose first token is chosen at a time.
CHUNK_ROWS = 512
# A GPU is asked after so many steps which replies are finished: asking makes it wait for the host.
STEPS_UNASKED = 2


class Slots:
    """`num_slots` replies in the making.

    Args:
        cache_LP2H: where their prompts are.
        stops: tokens at which a reply stops; none: every reply gets `max_new_tokens`.
    """

    def __init__(
        self, forward: Forward, cache_LP2H: torch.Tensor, num_slots: int, decoding: Decoding, stops: Sequence[int]
    ) -> None:
        device = forward.path.device

        def column() -> torch.Tensor:
            return torch.zeros(num_slots, dtype=torch.int64, device=device)

        self.forward, self.decoding, self.num_slots = forward, decoding, num_slots
        self.cache_LP2H, self.most = cache_LP2H, decoding.max_new_tokens
        self.tails_LO2H = forward.new_cache(num_slots * self.most)
        self.tail_starts_B = torch.arange(num_slots, device=device) * self.most
        self.tokens_BT = torch.zeros(num_slots, self.most, dtype=torch.int64, device=device)
        self.counts_B = column() + 1
        self.alive_B = column().bool()
        self.prefix_starts_B, self.prefix_lengths_B, self.numbers_B = column(), column(), column()
        self.stops = torch.tensor(list(stops), dtype=torch.int64, device=device)
        self.seen_BV: torch.Tensor | None = None
        if decoding.repetition_penalty != 1:
            shape = (num_slots, forward.head.out_features)
            self.seen_BV = torch.zeros(shape, dtype=torch.bool, device=device)
        self.records = device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None

    def fill(
        self, slots: Sequence[int], numbers: Sequence[int], starts: Sequence[int], firsts: Sequence[int],
        prompts: Sequence[Sequence[int]],
    ) -> None:  # fmt: skip
        """Let replies enter whose first token is chosen.

        Args:
            slots: the free slots that they take.
            numbers: of the replies; with the seed they fix what is drawn.
            starts: where their prompts begin in the prefix cache.
        """
        columns = [slots, numbers, starts, firsts, [len(prompt) for prompt in prompts]]
        at, numbers_B, starts_B, firsts_B, lengths_B = torch.tensor(columns).to(self.forward.path.device)
        self.numbers_B[at], self.prefix_starts_B[at], self.prefix_lengths_B[at] = numbers_B, starts_B, lengths_B
        self.tokens_BT[at, 0], self.counts_B[at], self.alive_B[at] = firsts_B, 1, True
        if self.seen_BV is not None:
            self.seen_BV[at] = seen_in(prompts, self.seen_BV.shape[1], self.seen_BV.device)
            self.seen_BV[at, firsts_B] = True

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Move replies to other slots, which are free."""
        if not sources:
            return
        source, target = torch.tensor([list(sources), list(targets)]).to(self.forward.path.device)
        tails = self.tails_LO2H.view(self.forward.num_layers, self.num_slots, -1)
        tails[:, target] = tails[:, source]
        columns = [self.tokens_BT, self.counts_B, self.prefix_starts_B, self.prefix_lengths_B, self.numbers_B]
        for column in [*columns, self.alive_B] + ([] if self.seen_BV is None else [self.seen_BV]):
            column[target] = column[source]
        self.alive_B[source] = False

    def num_needed(self, num_replies: int) -> int:
        """Return how many slots have to advance for so many replies; where a step is recorded, always all."""
        return self.num_slots if self.records else min(num_replies, self.num_slots)

    def advance(self, num: int) -> None:
        """Give every unfinished reply in the first `num` slots its next token."""
        if not self.records:
            self.step(num)
            return
        if self._graph is None:
            # Nobody is alive while kernels are compiled: no reply changes, and keys are written where the next step
            # writes the same ones.
            alive_B = self.alive_B.clone()
            self.alive_B.zero_()
            self._graph = recorded(lambda: self.step(num), self.forward.path.device)
            self.alive_B.copy_(alive_B)
        self._graph.replay()

    def replies(self, slots: Sequence[int]) -> list[list[int]]:
        """Return the tokens of replies."""
        at = torch.tensor(list(slots)).to(self.forward.path.device)
        pairs = zip(self.tokens_BT[at].tolist(), self.counts_B[at].tolist(), strict=True)
        return [tokens[:count] for tokens, count in pairs]

    def step(self, num: int) -> None:
        """Do what `advance` does, launch by launch."""
        forward, head_size = self.forward, self.forward.head_size
        counts_B, alive_B, numbers_B = self.counts_B[:num], self.alive_B[:num], self.numbers_B[:num]
        tails_B, tokens_BT = self.tail_starts_B[:num], self.tokens_BT[:num]
        last_B = counts_B - 1
        lengths_B = self.prefix_lengths_B[:num]
        branches = Branches(num, 1, None, self.prefix_starts_B[:num], lengths_B, tails_B, counts_B)
        places_B = tails_B + last_B

        def attend(number: int, qkv_MN: torch.Tensor) -> torch.Tensor:
            tails_O2H = self.tails_LO2H[number]
            tails_O2H.index_copy_(0, places_B, forward.key_values(qkv_MN))
            return forward.ops.branch_attention(qkv_MN, self.cache_LP2H[number], tails_O2H, branches, head_size)

        ids_B = tokens_BT.gather(1, last_B[:, None]).squeeze(1)
        logits_BV = forward.logits(forward.hidden_states(ids_B, lengths_B + last_B, attend))
        seen_BV = None if self.seen_BV is None else self.seen_BV[:num]
        logits_BV = penalised(logits_BV, seen_BV, self.decoding.repetition_penalty, self.stops)
        chosen_B = choose(logits_BV, self.decoding, numbers_B, counts_B)
        # A finished reply stays as it is, whatever is computed in its slot.
        next_B1 = counts_B.clamp_max(self.most - 1)[:, None]
        kept_B1 = tokens_BT.gather(1, next_B1)
        tokens_BT.scatter_(1, next_B1, torch.where(alive_B[:, None], chosen_B[:, None], kept_B1))
        if seen_BV is not None:
            seen_BV.scatter_(1, chosen_B[:, None], seen_BV.gather(1, chosen_B[:, None]) | alive_B[:, None])
        counts_B += alive_B
        alive_B &= ~(chosen_B[:, None] == self.stops).any(dim=1) & (counts_B < self.most)


def recorded(step: Callable[[], object], device: torch.device) -> torch.cuda.CUDAGraph:
    """Record work on a GPU, all of whose inputs and results are in tensors that stay, so that it can be replayed."""
    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        # Kernels are compiled and libraries opened by the first run; neither can happen while recording.
        for _ in range(2):
            step()
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


def seen_in(prompts: Sequence[Sequence[int]], vocabulary: int, device: torch.device) -> torch.Tensor:
    """Return which tokens are in each prompt, bool [B, V]."""
    seen_BV = torch.zeros(len(prompts), vocabulary, dtype=torch.bool, device=device)
    rows = [row for row, prompt in enumerate(prompts) for _ in prompt]
    pairs = torch.tensor([rows, [token for prompt in prompts for token in prompt]]).to(device)
    seen_BV[pairs[0], pairs[1]] = True
    return seen_BV


def first_tokens(
    forward: Forward, found: Prefilled, prompts: Sequence[Sequence[int]], decoding: Decoding, stops: Sequence[int]
) -> list[int]:
    """Return the first token of the reply to each prompt in the cache, in their order there."""
    device = forward.path.device
    firsts: list[int] = []
    spared = torch.tensor(list(stops), dtype=torch.int64, device=device)
    for start in range(0, len(found.numbers), CHUNK_ROWS):
        numbers = found.numbers[start : start + CHUNK_ROWS]
        logits_BV = forward.logits(found.hidden[start : start + CHUNK_ROWS])
        seen_BV = None
        if decoding.repetition_penalty != 1:
            seen_BV = seen_in([prompts[number] for number in numbers], logits_BV.shape[1], device)
        numbers_B = torch.tensor(numbers, device=device)
        logits_BV = penalised(logits_BV, seen_BV, decoding.repetition_penalty, spared)
        firsts += choose(logits_BV, decoding, numbers_B, torch.zeros_like(numbers_B)).tolist()
    return firsts


def decode(
    forward: Forward, prompts: Sequence[Sequence[int]], decoding: Decoding, stops: Sequence[int], num_slots: int | None
) -> Iterator[tuple[int, list[int]]]:
    """Yield (number of the prompt, token ids of its reply) as replies are finished; the longest dialogues first.

    A stop token ends a reply and belongs to it.

    Args:
        prompts: token ids, at least one each.
        num_slots: replies in the making at most; None: what suits the device.
    """
    lengths = [len(prompt) for prompt in prompts]
    families = families_of(prompts)
    room = cache_room(forward, max((len(family.ids) for family in families), default=0))
    cache_LP2H = forward.new_cache(min(room, sum(len(family.ids) for family in families)))
    slots: Slots | None = None
    for part in split_families(families, room):
        found = prefill(forward, part, lengths, cache_LP2H)
        firsts = first_tokens(forward, found, prompts, decoding, stops)
        queue: deque[tuple[int, int, int]] = deque()
        for number, start, first in zip(found.numbers, found.starts, firsts, strict=True):
            if first in stops or decoding.max_new_tokens == 1:
                yield number, [first]
            else:
                queue.append((number, start, first))
        if queue and slots is None:
            num = num_slots or _num_slots(forward, decoding, len(prompts))
            slots = Slots(forward, cache_LP2H, min(num, len(prompts)), decoding, stops)
        if slots is not None:
            yield from _drain(slots, queue, prompts)


def _drain(
    slots: Slots, queue: "deque[tuple[int, int, int]]", prompts: Sequence[Sequence[int]]
) -> Iterator[tuple[int, list[int]]]:
    """Work off a queue of (number, place of the prompt, first token)."""
    held: dict[int, int] = {}
    while queue or held:
        num = slots.num_needed(len(held) + len(queue))
        free = [slot for slot in range(num) if slot not in held]
        behind = [slot for slot in held if slot >= num]
        slots.move(behind, free[: len(behind)])
        for source, target in zip(behind, free, strict=False):
            held[target] = held.pop(source)
        entering = [(slot, *queue.popleft()) for slot in free[len(behind) :][: len(queue)]]
        if entering:
            at, numbers, starts, firsts = zip(*entering, strict=True)
            slots.fill(at, numbers, starts, firsts, [prompts[number] for number in numbers])
            held |= dict(zip(at, numbers, strict=True))
        for _ in range(STEPS_UNASKED if slots.records else 1):
            slots.advance(num)
        alive = slots.alive_B[:num].tolist()
        finished = [slot for slot in held if not alive[slot]]
        if finished:
            for slot, reply in zip(finished, slots.replies(finished), strict=True):
                yield held.pop(slot), reply


def _num_slots(forward: Forward, decoding: Decoding, num_replies: int) -> int:
    """Return slots for so many replies, in as few rounds as memory allows, all of the same size."""
    free = runtime.free_gib(forward.path.device) * 2**30
    logits = LOGIT_BYTES[decoding.temperature > 0] * forward.head.out_features
    each = decoding.max_new_tokens * forward.token_bytes + logits
    most = max(1, min(MOST_SLOTS, int(MOST_OF_FREE * free // each)))
    return math.ceil(num_replies / math.ceil(num_replies / most))
