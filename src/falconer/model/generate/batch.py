"""Generating many replies on the fast path: each dialogue's prompts are computed once, and slots are refilled.

Shapes: L layers, P tokens of the prefix cache, O tokens of the tails, G key/value heads, H head size.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence

import torch

from falconer import runtime
from falconer.model.falcon.infer_pass import Forward
from falconer.model.generate.fast_beams import decode_beams
from falconer.model.generate.prefix import group_by_prefix, new_prefix_cache, prefill, split_groups
from falconer.model.generate.sampling import Kind
from falconer.model.generate.slots import Entering, Slots, first_tokens
from falconer.model.request import Request

# The default number of slots. On a GPU it stays the same for the last replies: recording a step for fewer slots would
# cost more than the shorter steps save.
MOST_SLOTS = 1024
# Maximum share of free memory for all slots.
MOST_OF_FREE = 0.25
# Bytes per logit, in the weights' dtype and in fp32; sorting for top-p needs sorted copies and their indices, too.
GREEDY_BYTES, SAMPLED_BYTES = 8, 40
# On a GPU, finished replies are looked for after this many steps, as each check synchronises with the host.
STEPS_UNASKED = 2


@torch.inference_mode()
def decode(
    forward: Forward, requests: Sequence[Request], unknown: torch.Tensor, num_slots: int | None = None,
    share: float = 1.0,
) -> Iterator[tuple[int, list[int]]]:  # fmt: skip
    """Yield (index of the request, token ids of its reply) as replies are finished; the longest dialogues first.

    A stop token ends a reply and is its last token.

    Args:
        unknown: tokens that are never generated, int64.
        num_slots: maximum number of replies, or beams, at the same time; None: chosen for the device.
        share: factor for the sizes of slots, cache and passes, 0-1; below 1 after memory ran out.
    """
    for has_beams in (False, True):
        numbers = [n for n, request in enumerate(requests) if (request.decoding.num_beams > 1) == has_beams]
        asked = [requests[number] for number in numbers]
        if not asked:
            continue
        if has_beams:
            num_rows = max(1, int(share * (num_slots or _room(forward, asked))))
            found = decode_beams(forward, asked, unknown, num_rows, share)
        else:
            found = _one_by_one(forward, asked, unknown, num_slots, share)
        for place, reply in found:
            yield numbers[place], reply


def _one_by_one(
    forward: Forward, requests: Sequence[Request], unknown: torch.Tensor, num_slots: int | None, share: float
) -> Iterator[tuple[int, list[int]]]:
    """Generate replies without beams, token by token."""
    lengths = [len(request.prompt) for request in requests]
    groups = group_by_prefix([request.prompt for request in requests])
    cache_LPG2H = new_prefix_cache(forward, groups, share)
    kind = Kind.of(requests)
    slots: Slots | None = None
    for part in split_groups(groups, cache_LPG2H.shape[1]):
        found = prefill(forward, part, lengths, cache_LPG2H, share)
        firsts = first_tokens(forward, found.hidden, [requests[number] for number in found.numbers], unknown)
        queue: deque[tuple[int, Entering]] = deque()
        for number, start, first in zip(found.numbers, found.starts, firsts, strict=True):
            request = requests[number]
            if first in request.stops or request.decoding.max_new_tokens == 1:
                yield number, [first]
            else:
                queue.append((number, Entering(request, start, first)))
        if queue and slots is None:
            slots = _new_slots(forward, requests, cache_LPG2H, unknown, num_slots, share)
        if slots is not None:
            yield from _drain(slots, queue, kind)


def _drain(slots: Slots, queue: deque[tuple[int, Entering]], kind: Kind) -> Iterator[tuple[int, list[int]]]:
    """Generate the replies of a queue of (index of the request, its reply with the first token)."""
    active: dict[int, int] = {}
    while queue or active:
        num_replies = len(active) + len(queue)
        # A recorded step is always recorded for all slots.
        num = slots.num_slots if slots.records else min(num_replies, slots.num_slots)
        free = [slot for slot in range(num) if slot not in active]
        behind = [slot for slot in active if slot >= num]
        slots.move(behind, free[: len(behind)])
        for source, target in zip(behind, free, strict=False):
            active[target] = active.pop(source)
        places = free[len(behind) :][: len(queue)]
        if places:
            numbers, entering = zip(*(queue.popleft() for _ in places), strict=True)
            slots.fill(places, entering)
            active |= dict(zip(places, numbers, strict=True))
        for _ in range(STEPS_UNASKED if slots.records else 1):
            slots.advance(num, kind)
        alive = slots.alive_B[:num].tolist()
        finished = [slot for slot in active if not alive[slot]]
        if finished:
            for slot, reply in zip(finished, slots.replies(finished), strict=True):
                yield active.pop(slot), reply


def _room(forward: Forward, requests: Sequence[Request]) -> int:
    """Return for how many replies at the same time memory suffices."""
    most = max(request.decoding.max_new_tokens for request in requests)
    free = runtime.free_gib(forward.path.device) * 2**30
    bytes_of_logit = SAMPLED_BYTES if Kind.of(requests).samples else GREEDY_BYTES
    each = most * forward.token_bytes + bytes_of_logit * forward.head.out_features
    return max(1, min(MOST_SLOTS, int(MOST_OF_FREE * free // each)))


def _new_slots(
    forward: Forward, requests: Sequence[Request], cache_LPG2H: torch.Tensor, unknown: torch.Tensor,
    num_slots: int | None, share: float,
) -> Slots:  # fmt: skip
    """Return slots for all requests or, if memory does not suffice, for equal parts of them."""
    most = max(request.decoding.max_new_tokens for request in requests)
    if num_slots is None:
        num_slots = math.ceil(len(requests) / math.ceil(len(requests) / _room(forward, requests)))
    num_slots = max(1, int(share * min(num_slots, len(requests))))
    starts_B = torch.arange(num_slots, device=forward.path.device) * most
    tails_LOG2H, most_prompt = forward.new_cache(num_slots * most), max(len(request.prompt) for request in requests)
    return Slots(forward, cache_LPG2H, tails_LOG2H, starts_B, most, most_prompt, unknown)
