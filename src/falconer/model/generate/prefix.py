"""The prefix cache: prompts that share a prefix are grouped, and each prefix is computed once.

A prompt is an exact prefix of the same dialogue's later prompts (`data.encode`), so a dialogue is as much work as its
longest prompt. If truncation dropped different turns, the prompts are in different groups.

Shapes: L layers, P tokens of the prefix cache, M tokens of a pass, D hidden, G key/value heads, H head size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch

from falconer import runtime
from falconer.kernels.formats import Branches, Layout
from falconer.model.falcon.infer_pass import Forward
from falconer.model.generate.transfer import on_device

# Maximum number of tokens in a pass; on a GPU enough to use it fully, with about a GiB of MLP activations for the 7B.
PASS_TOKENS = MappingProxyType({"cuda": 16384, "cpu": 4096})
# Maximum size of the prefix cache, in bytes and as a share of free memory; all of ConvAI2 takes 2 GiB for the 7B.
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
        starts: where the keys of each one start in the cache; there are as many as it has tokens.
        hidden: the last norm's output at each one's last token, [len(numbers), D].
    """

    numbers: list[int]
    starts: list[int]
    hidden: torch.Tensor


def group_by_prefix(prompts: Sequence[Sequence[int]]) -> list[PrefixGroup]:
    """Group prompts by their common prefix; the group with the longest prompt is first.

    Args:
        prompts: token ids, at least one each.
    """
    rows = [tuple(prompt) for prompt in prompts]
    assert all(rows), "a prompt has at least one token"
    # In sorted order, the prompts that start with a prompt directly follow it.
    order = sorted(range(len(rows)), key=lambda number: rows[number])
    members: list[list[int]] = []
    for number in reversed(order):
        longer = rows[members[-1][-1]] if members else ()
        if longer[: len(rows[number])] == rows[number]:
            members[-1].append(number)
        else:
            members.append([number])
    # Prompts of equal length keep their order.
    found = [
        PrefixGroup(rows[numbers[0]], tuple(sorted(numbers, key=lambda n: (-len(rows[n]), n)))) for numbers in members
    ]
    return sorted(found, key=lambda group: (-len(group.ids), group.members))


def split_groups(groups: Sequence[PrefixGroup], num_tokens: int) -> Iterator[list[PrefixGroup]]:
    """Split a list of groups into lists that fit into a cache of `num_tokens`; a longer group is a list of its own."""
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
    """Return a cache [L, P, G, 2, H] for as many of the groups at once as memory allows, at least for the longest.

    Args:
        share: factor for its size, 0-1; below 1 after memory ran out.
    """
    free = runtime.free_gib(forward.path.device) * 2**30
    room = int(share * min(MOST_CACHE_BYTES, MOST_OF_FREE * free) // forward.token_bytes)
    sizes = [len(group.ids) for group in groups]
    return forward.new_cache(min(max(room, *sizes, 0), sum(sizes)))


def pass_tokens(forward: Forward, most: int, share: float) -> int:
    """Return the number of tokens in a pass: `most`, or fewer if GPU memory is short or ran out before."""
    tokens = share * most
    if forward.path.device.type == "cuda":
        free = runtime.free_gib(forward.path.device) * 2**30
        tokens = min(tokens, MOST_OF_FREE * free / forward.pass_token_bytes)
    return max(1, int(tokens))


def prefill(
    forward: Forward, groups: Sequence[PrefixGroup], lengths: Sequence[int], cache_LPG2H: torch.Tensor, share: float
) -> Prefilled:
    """Compute the longest prompt of each group, and store keys and values from the start of the cache.

    Args:
        lengths: tokens of every prompt, by number.
        cache_LPG2H: overwritten.
        share: factor for the tokens in a pass, 0-1.
    """
    numbers, starts, hidden = [], [], []
    for part, begins, hidden_SD in prefill_passes(
        forward, groups, lambda group: [lengths[number] - 1 for number in group.members], cache_LPG2H, share
    ):
        members = [(number, begin) for group, begin in zip(part, begins, strict=True) for number in group.members]
        numbers += [number for number, _ in members]
        starts += [begin for _, begin in members]
        hidden.append(hidden_SD)
    return Prefilled(numbers, starts, torch.cat(hidden))


def prefill_passes(
    forward: Forward, groups: Sequence[PrefixGroup], wanted: Callable[[PrefixGroup], Sequence[int]],
    cache_LPG2H: torch.Tensor, share: float,
) -> Iterator[tuple[list[PrefixGroup], list[int], torch.Tensor]]:  # fmt: skip
    """Do what `prefill` does; yield for each pass its groups, where each one starts in the cache, and the outputs.

    Args:
        wanted: the tokens of a group's longest prompt whose outputs are needed, counted from 0.
    """
    begin = 0
    for part in split_groups(groups, pass_tokens(forward, PASS_TOKENS[forward.path.device.type], share)):
        borders = np.cumsum([0, *(len(group.ids) for group in part)])
        rows = [int(at) + token for group, at in zip(part, borders, strict=False) for token in wanted(group)]
        hidden_SD = _pass(forward, part, borders, rows, cache_LPG2H[:, begin : begin + int(borders[-1])])
        yield part, [begin + int(at) for at in borders[:-1]], hidden_SD
        begin += int(borders[-1])


@dataclass(frozen=True, slots=True)
class Extension:
    """Tokens that go on from what a row of a cache contains.

    Args:
        ids: at least one.
        start: where the row begins.
        known: how many tokens it contains.
        adapter: the number of the adapter, see `Forward.adapters`.
    """

    ids: Sequence[int]
    start: int
    known: int = 0
    adapter: int = 0


def extend(forward: Forward, extensions: Sequence[Extension], cache_LPG2H: torch.Tensor) -> torch.Tensor:
    """Compute further tokens of several rows of a cache in one pass, and store their keys.

    Returns:
        The last output of each, [S, D].
    """
    device, counts = forward.path.device, np.array([len(one.ids) for one in extensions], dtype=np.int64)
    borders = np.append(0, counts.cumsum())
    rows = [(one.start, one.known, one.adapter) for one in extensions]
    starts, known, adapters = np.array(rows, dtype=np.int64).T
    positions = np.arange(borders[-1]) + np.repeat(known - borders[:-1], counts)
    ids = np.concatenate([np.asarray(one.ids, dtype=np.int64) for one in extensions])
    columns = [ids, positions, positions + np.repeat(starts, counts), np.repeat(adapters, counts)]
    ids_M, positions_M, places_M, adapters_M = on_device(np.stack(columns), device)
    borders_S, starts_S, known_S, counts_S = (
        on_device(np.ascontiguousarray(column), device) for column in (borders, starts, known, counts)
    )
    branches = Branches(len(extensions), int(counts.max()), borders_S, starts_S, known_S, borders_S[:-1], counts_S)

    def attend(number: int, qkv_MN: torch.Tensor) -> torch.Tensor:
        own_MG2H = forward.key_values(qkv_MN)
        cache_LPG2H[number].index_copy_(0, places_M, own_MG2H)
        return forward.ops.branch_attention(qkv_MN, cache_LPG2H[number], own_MG2H, branches, forward.heads)

    which = adapters_M if forward.adapters else None
    return forward.hidden_states(ids_M, positions_M, attend, borders_S[1:] - 1, which)


def shared_tokens(known: Sequence[int], prompt: Sequence[int]) -> int:
    """Return how many tokens of a prompt are cached; its last one is always computed, since its output is needed."""
    return num_common(known, prompt[:-1])


def num_common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return with how many equal tokens two texts begin."""
    most = min(len(one), len(other))
    return next((place for place in range(most) if one[place] != other[place]), most)


def _pass(
    forward: Forward, groups: Sequence[PrefixGroup], borders: np.ndarray, ends: Sequence[int], cache_LMG2H: torch.Tensor
) -> torch.Tensor:
    device, sizes = forward.path.device, np.diff(borders)
    layout = Layout(len(groups), int(sizes.max()), on_device(borders, device, torch.int32))
    ids = np.concatenate([np.asarray(group.ids, dtype=np.int64) for group in groups])
    positions = np.arange(len(ids)) - np.repeat(borders[:-1], sizes)

    def attend(number: int, qkv_MN: torch.Tensor) -> torch.Tensor:
        cache_LMG2H[number] = forward.key_values(qkv_MN)
        return forward.ops.attention(qkv_MN, layout, forward.heads).out

    ids_M, positions_M, ends_S = (on_device(x, device) for x in (ids, positions, ends))
    return forward.hidden_states(ids_M, positions_M, attend, ends_S)
