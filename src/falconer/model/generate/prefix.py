"""Prompts of one dialogue share their prefix: it is computed once, and every reply and candidate branches off from it.

A prompt is an exact prefix of the same dialogue's later prompts (`data.encode`), so a dialogue is as much work as its
longest prompt. Where truncation dropped different turns the prompts differ, and each is a group of its own.

Shapes: L layers, P tokens of the prefix cache, M tokens of a pass, D hidden, H head size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch

from falconer import runtime
from falconer.kernels.formats import Branches, Layout
from falconer.model.falcon.infer_pass import Forward

# Tokens of one pass at most; on a GPU, what fills it while the MLP's inner values stay around a GiB for the 7B.
PASS_TOKENS = MappingProxyType({"cuda": 16384, "cpu": 4096})
# The prefix cache takes at most so much, and a share of what is free; 2 GiB hold all of ConvAI2 for the 7B.
MOST_CACHE_BYTES, MOST_OF_FREE = 4 * 2**30, 0.25


@dataclass(frozen=True, slots=True)
class PrefixGroup:
    """Prompts that are prefixes of one of them.

    Args:
        ids: the longest.
        members: numbers of the prompts, the longest first.
    """

    ids: Sequence[int]
    members: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prefilled:
    """Prompts in the prefix cache.

    Args:
        numbers: which prompts.
        starts: where each one's keys begin in the cache; they are as many as it has tokens.
        hidden: the last norm's output at each one's last token, [len(numbers), D].
    """

    numbers: list[int]
    starts: list[int]
    hidden: torch.Tensor


def group_by_prefix(prompts: Sequence[Sequence[int]]) -> list[PrefixGroup]:
    """Put prompts into groups, the one with the longest prompt first.

    Args:
        prompts: token ids, at least one each.
    """
    rows = [tuple(prompt) for prompt in prompts]
    assert all(rows), "a prompt has at least one token"
    # In order, whatever begins with a prompt stands right behind it.
    order = sorted(range(len(rows)), key=lambda number: rows[number])
    members: list[list[int]] = []
    for number in reversed(order):
        longer = rows[members[-1][-1]] if members else ()
        if longer[: len(rows[number])] == rows[number]:
            members[-1].append(number)
        else:
            members.append([number])
    # Among equals in length, the order of the prompts.
    found = [PrefixGroup(rows[numbers[0]], tuple(sorted(numbers, key=lambda n: (-len(rows[n]), n)))) for numbers in members]
    return sorted(found, key=lambda group: (-len(group.ids), group.members))


def split_groups(groups: Sequence[PrefixGroup], num_tokens: int) -> Iterator[list[PrefixGroup]]:
    """Cut a list of groups into lists that fit a cache of `num_tokens`; one that is longer stands alone."""
    part: list[PrefixGroup] = []
    total = 0
    for group in groups:
        if part and total + len(group.ids) > num_tokens:
            yield part
            part, total = [], 0
        part.append(group)
        total += len(group.ids)
    if part:
        yield part


def new_prefix_cache(forward: Forward, groups: Sequence[PrefixGroup], share: float) -> torch.Tensor:
    """Return a cache [L, P, 2, H] for as many of the groups at once as memory allows, at least for the longest.

    Args:
        share: of what would be taken otherwise, 0-1; less after memory ran out.
    """
    free = runtime.free_gib(forward.path.device) * 2**30
    room = int(share * min(MOST_CACHE_BYTES, MOST_OF_FREE * free) // forward.token_bytes)
    sizes = [len(group.ids) for group in groups]
    return forward.new_cache(min(max(room, *sizes, 0), sum(sizes)))


def pass_tokens(forward: Forward, most: int, share: float) -> int:
    """Return the tokens of one pass: `most`, or fewer where a GPU has little memory left or it ran out before."""
    tokens = share * most
    if forward.path.device.type == "cuda":
        free = runtime.free_gib(forward.path.device) * 2**30
        tokens = min(tokens, MOST_OF_FREE * free / forward.pass_token_bytes)
    return max(1, int(tokens))


def prefill(
    forward: Forward, groups: Sequence[PrefixGroup], lengths: Sequence[int], cache_LP2H: torch.Tensor, share: float
) -> Prefilled:
    """Compute the longest prompt of each group, and keep keys and values from the cache's beginning on.

    Args:
        lengths: tokens of every prompt, by number.
        cache_LP2H: overwritten.
        share: of the tokens that a pass would have otherwise, 0-1.
    """
    numbers, starts, hidden = [], [], []
    begin = 0
    for part in split_groups(groups, pass_tokens(forward, PASS_TOKENS[forward.path.device.type], share)):
        sizes = [len(group.ids) for group in part]
        borders = np.cumsum([0, *sizes])
        members = [(number, int(at)) for group, at in zip(part, borders, strict=False) for number in group.members]
        ends = [at + lengths[number] - 1 for number, at in members]
        hidden.append(_pass(forward, part, borders, ends, cache_LP2H[:, begin : begin + int(borders[-1])]))
        numbers += [number for number, _ in members]
        starts += [begin + at for _, at in members]
        begin += int(borders[-1])
    return Prefilled(numbers, starts, torch.cat(hidden))


def extend(forward: Forward, ids: Sequence[int], known: int, cache_LP2H: torch.Tensor) -> torch.Tensor:
    """Go on behind the cache's first `known` tokens, keep the new ones there, and return the last's output [1, D]."""
    device, count = forward.path.device, len(ids)
    whole = torch.tensor([0, count, known], device=device)
    branches = Branches(1, count, whole[:2], whole[:1], whole[2:], whole[:1], whole[1:2])

    def attend(number: int, qkv_MN: torch.Tensor) -> torch.Tensor:
        own_M2H = forward.key_values(qkv_MN)
        cache_LP2H[number, known : known + count] = own_M2H
        return forward.ops.branch_attention(qkv_MN, cache_LP2H[number], own_M2H, branches, forward.head_size)

    positions = torch.arange(known, known + count, device=device)
    return forward.hidden_states(torch.tensor(ids, device=device), positions, attend, whole[1:2] - 1)


def _pass(
    forward: Forward, groups: Sequence[PrefixGroup], borders: np.ndarray, ends: Sequence[int], cache_LM2H: torch.Tensor
) -> torch.Tensor:
    device, sizes = forward.path.device, np.diff(borders)
    layout = Layout(len(groups), int(sizes.max()), torch.from_numpy(borders.astype(np.int32)).to(device))
    ids = np.concatenate([np.asarray(group.ids, dtype=np.int64) for group in groups])
    positions = np.arange(len(ids)) - np.repeat(borders[:-1], sizes)

    def attend(number: int, qkv_MN: torch.Tensor) -> torch.Tensor:
        cache_LM2H[number] = forward.key_values(qkv_MN)
        return forward.ops.attention(qkv_MN, layout, forward.head_size).out

    ids_M, positions_M, ends_S = (torch.from_numpy(np.asarray(x)).to(device) for x in (ids, positions, ends))
    return forward.hidden_states(ids_M, positions_M, attend, ends_S)
