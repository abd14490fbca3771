"""Replies and candidates that branch off their prompts on the generic path, where each prompt is computed once.

A prompt is an exact prefix of the same dialogue's later prompts, and its candidates, or its reply, continue it. So a
dialogue takes as many tokens as its longest prompt, and as its candidates and replies.

Shapes: B rows, V vocabulary.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch

from falconer.model.generate.beams import batches_of_beams
from falconer.model.generate.candidates import Row
from falconer.model.generate.generic_choice import Choice
from falconer.model.generate.generic_prefix import Computed, PrefixPass
from falconer.model.generate.key_values import fill, new_cache, remove, skip
from falconer.model.generate.prefix import PrefixGroup, group_by_prefix
from falconer.model.request import Joining, Request, Writing

# Tokens of a pass over prompts, with padding, and tokens in the caches of the rows that share a pass.
PASS_TOKENS = MappingProxyType({"cuda": 16384, "cpu": 2048})
CACHE_TOKENS = MappingProxyType({"cuda": 131072, "cpu": 8192})
# Generates the replies to prompts that were computed: `one_by_one`, or `generic_beams.branching_beams`.
Write = Callable[[PrefixPass, Sequence[Request], Sequence[Computed], torch.Tensor], list[list[int]]]
# Candidates that differ by fewer tokens may share a pass.
LENGTH_STEP = 3


def one_by_one(
    forward: PrefixPass, requests: Sequence[Request], computed: Sequence[Computed], unknown: torch.Tensor
) -> list[list[int]]:
    """Return the token ids of some replies, which end with a stop token if there is one."""
    replies = [Writing(Joining(request), []) for request in requests]
    rows, ids = list(replies), [list(request.prompt) for request in requests]
    most = max(request.decoding.max_new_tokens for request in requests)
    cache = new_cache([one.cache for one in computed], max(map(len, ids)), most)
    logits_BV = forward.logits(torch.cat([one.state for one in computed]))
    choice = Choice(rows, logits_BV.shape[1], unknown)
    while True:
        for reply, row, said in zip(rows, ids, choice.next(logits_BV), strict=True):
            reply.said.append(said)
            row.append(said.token)
            is_last = len(reply.said) == reply.request.decoding.max_new_tokens
            reply.is_done = is_last or said.token in reply.request.stops
        if gone := [at for at, reply in enumerate(rows) if reply.is_done]:
            choice.remove(gone)
            remove(cache, gone)
            fill(rows, gone)
            fill(ids, gone)
        if not rows:
            return [[said.token for said in reply.said] for reply in replies]
        cached = [len(row) - 1 for row in ids]
        skip(cache, max(cached))
        places = [(row, 0) for row in range(len(rows))]
        logits_BV = forward.logits(forward.read(cache, cached, [row[-1:] for row in ids], places))


@torch.inference_mode()
def branch_replies(
    forward: PrefixPass,
    requests: Sequence[Request],
    unknown: torch.Tensor,
    batch_size: int,
    write: Write = one_by_one,
) -> Iterator[tuple[list[int], list[list[int]]]]:
    """Yield (indices of some requests, token ids of their replies), dialogues with the longest prompts first.

    Args:
        unknown: tokens that are never generated, int64.
        batch_size: the maximum number of replies in a batch, or of beams.
        write: generates the replies to some prompts.

    Raises:
        torch.OutOfMemoryError: a batch does not fit; replies yielded before are valid.
    """
    prompts = [request.prompt for request in requests]
    lengths = [len(prompt) for prompt in prompts]
    for part in _parts(group_by_prefix(prompts), batch_size):
        computed = _prefilled(forward, part, lengths, PASS_TOKENS[unknown.device.type])
        numbers = sorted(computed, key=lambda number: -lengths[number])
        for some in batches_of_beams(numbers, requests, batch_size):
            yield some, write(forward, [requests[n] for n in some], [computed[n] for n in some], unknown)


@torch.inference_mode()
def branch_sums(
    forward: PrefixPass, prompts: Sequence[Sequence[int]], rows: Sequence[Row], end_id: int, device: torch.device,
    share: float,
) -> Iterator[tuple[list[int], np.ndarray]]:  # fmt: skip
    """Yield (indices of some rows, their sums of log-probabilities); see `candidates.branch_scores`.

    Args:
        rows: candidates without end tokens, (number of the prompt, token ids).
        share: factor for the sizes of passes, 0-1; below 1 after memory ran out.

    Raises:
        torch.OutOfMemoryError: a pass does not fit; sums yielded before are valid.
    """
    lengths = [len(prompt) for prompt in prompts]
    of_prompt: list[list[int]] = [[] for _ in prompts]
    for index, (number, _) in enumerate(rows):
        of_prompt[number].append(index)
    most_read, most_cached = (max(1, int(share * most[device.type])) for most in (PASS_TOKENS, CACHE_TOKENS))
    for part in _parts_of_tokens(group_by_prefix(prompts), most_read):
        computed = _prefilled(forward, part, lengths, most_read)
        asked = [(number, index) for number in computed for index in of_prompt[number]]
        if not asked:
            continue
        firsts = dict(zip([index for _, index in asked], _firsts(forward, computed, asked, rows, end_id), strict=True))
        # An empty candidate is only the end token, which the prompt's output has scored.
        empty = [index for _, index in asked if not rows[index][1]]
        yield empty, np.array([firsts[index] for index in empty])
        # Alike in length, so that little is padding.
        longer = sorted(
            ((number, index) for number, index in asked if rows[index][1]),
            key=lambda one: (-(len(rows[one[1]][1]) // LENGTH_STEP), -lengths[one[0]]),
        )
        for some in _batches(longer, rows, lengths, most_cached):
            indices = [index for _, index in some]
            behind = _sums(forward, [computed[n] for n, _ in some], [rows[i][1] for i in indices], end_id)
            yield indices, np.array([firsts[index] for index in indices]) + behind


def _firsts(
    forward: PrefixPass, computed: Mapping[int, Computed], asked: Sequence[tuple[int, int]], rows: Sequence[Row],
    end_id: int,
) -> list[float]:  # fmt: skip
    """Return the log-probability of each candidate's first token after its prompt."""
    place_of = {number: place for place, number in enumerate(computed)}
    pairs = [(place_of[number], [*rows[index][1], end_id][0]) for number, index in asked]
    return forward.first_log_probabilities(torch.cat([one.state for one in computed.values()]), pairs)


def _prefilled(
    forward: PrefixPass, groups: Sequence[PrefixGroup], lengths: Sequence[int], most: int
) -> dict[int, Computed]:
    """Return the prompts of some groups, computed in passes of at most `most` tokens."""
    found: dict[int, Computed] = {}
    for some in _parts_of_tokens(groups, most):
        found |= forward.prefill(some, lengths)
    return found


def _sums(
    forward: PrefixPass, computed: Sequence[Computed], replies: Sequence[Sequence[int]], end_id: int
) -> np.ndarray:
    """Return for each reply the log-probability of its tokens after the first, and of its end token."""
    cached = [one.cache[0][0].shape[2] for one in computed]
    cache = new_cache([one.cache for one in computed], max(cached), max(map(len, replies)))
    places = [(row, place) for row, reply in enumerate(replies) for place in range(len(reply))]
    states = forward.read(cache, cached, replies, places)
    found = forward.log_probabilities(states, [token for reply in replies for token in (*reply[1:], end_id)])
    borders = np.cumsum([0, *(len(reply) for reply in replies[:-1])])
    return np.asarray(np.add.reduceat(found, borders))


def _parts(groups: Sequence[PrefixGroup], most: int) -> Iterator[list[PrefixGroup]]:
    """Split groups into lists of at most `most` prompts, or of one group."""
    part: list[PrefixGroup] = []
    for group in groups:
        if part and sum(len(one.members) for one in part) + len(group.members) > most:
            yield part
            part = []
        part.append(group)
    if part:
        yield part


def _parts_of_tokens(groups: Sequence[PrefixGroup], most: int) -> Iterator[list[PrefixGroup]]:
    """Split groups, the longest first, into lists that are at most `most` tokens with padding, or of one group."""
    start = 0
    while start < len(groups):
        rows = max(1, most // len(groups[start].ids))
        yield list(groups[start : start + rows])
        start += rows


def _batches(
    asked: Sequence[tuple[int, int]], rows: Sequence[Row], lengths: Sequence[int], most: int
) -> Iterator[list[tuple[int, int]]]:
    """Split (number of a prompt, index of a candidate) into lists whose caches are at most `most` tokens, or of one."""
    part: list[tuple[int, int]] = []
    cached = longest = 0
    for number, index in asked:
        cached, longest = max(cached, lengths[number]), max(longest, len(rows[index][1]))
        if part and (len(part) + 1) * (cached + longest) > most:
            yield part
            part, cached, longest = [], lengths[number], len(rows[index][1])
        part.append((number, index))
    if part:
        yield part
