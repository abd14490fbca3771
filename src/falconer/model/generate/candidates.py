"""The log-likelihoods of candidate replies on the fast path, with each prompt computed once.

Candidates of a prompt that begin alike are a tree (`candidate_trees`). What the dialogue goes on with, the gold reply
as a rule, is computed with the dialogue's longest prompt, so that its outputs predict these tokens, too.

Shapes: S branches (trees), M tokens of a pass, E targets, C outputs of a chunk, D hidden, V vocabulary, N outputs of
the projection, L layers, P tokens of the prefix cache, G key/value heads, H head size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import torch

from falconer.kernels.formats import Branches
from falconer.model.falcon.infer_pass import Forward
from falconer.model.generate.candidate_trees import Tree, trees_of
from falconer.model.generate.prefix import (
    PrefixGroup,
    group_by_prefix,
    new_prefix_cache,
    num_common,
    pass_tokens,
    prefill_passes,
    split_groups,
)
from falconer.model.generate.transfer import on_device, on_host
from falconer.model.likelihood import CHUNK_TARGETS

# Maximum number of candidate tokens in a pass.
BRANCH_TOKENS = MappingProxyType({"cuda": 32768, "cpu": 2048})
# (number of the prompt, token ids of a candidate).
Row = tuple[int, Sequence[int]]


@dataclass(frozen=True, slots=True)
class CandidateScores:
    """The candidates of one prompt.

    Args:
        sums: log-probability of each candidate and its end token, in nats, float64 [C].
        num_tokens: tokens of each, the end token included, int64 [C].
    """

    sums: np.ndarray
    num_tokens: np.ndarray


@dataclass(frozen=True, slots=True)
class _Targets:
    """Which outputs of a pass predict which tokens.

    Args:
        numbers: candidates, each once.
        counts: how many targets each has.
        rows, labels: of the targets, one candidate after the other: output and token id.
        finished: the candidates that have no targets in later passes.
    """

    numbers: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)

    def add(self, number: int, rows: Sequence[int], labels: Sequence[int], *, finished: bool) -> None:
        """Add the targets of a candidate."""
        self.numbers.append(number)
        self.counts.append(len(rows))
        self.rows.extend(rows)
        self.labels.extend(labels)
        if finished:
            self.finished.append(number)


@dataclass(frozen=True, slots=True)
class _Planted:
    """A tree of candidates, and the part of the prefix cache that it goes on from."""

    tree: Tree
    start: int
    length: int


class _Asked:
    """The candidates of all prompts, and what their dialogues' longest prompts know of them.

    Args:
        end_id: the token that ends a reply.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], rows: Sequence[Row], end_id: int) -> None:
        self._lengths, self._end_id = [len(prompt) for prompt in prompts], end_id
        self.candidates = [ids for _, ids in rows]
        self._of_prompt: list[list[int]] = [[] for _ in prompts]
        for index, (number, _) in enumerate(rows):
            self._of_prompt[number].append(index)

    def known(self, group: PrefixGroup) -> Iterator[tuple[int, int, int]]:
        """Yield (candidate, tokens of its prompt, tokens behind it that the longest prompt has, too)."""
        for number in group.members:
            length = self._lengths[number]
            behind = group.ids[length:]
            for index in self._of_prompt[number]:
                yield index, length, num_common(behind, self.candidates[index])

    def outputs(self, group: PrefixGroup) -> list[int]:
        """Return the tokens of the longest prompt whose outputs predict tokens of candidates."""
        ends: dict[int, int] = {}
        for _, length, num_known in self.known(group):
            ends[length] = max(ends.get(length, 0), length + num_known)
        return sorted({place for length, end in ends.items() for place in range(length - 1, end)})

    def known_targets(self, groups: Sequence[PrefixGroup]) -> _Targets:
        """Return what the `outputs` of some groups, one group after the other, predict."""
        targets, begin = _Targets(), 0
        for group in groups:
            places = self.outputs(group)
            row_of = dict(zip(places, range(begin, begin + len(places)), strict=True))
            begin += len(places)
            for index, length, num_known in self.known(group):
                ids = self.candidates[index]
                rows = [row_of[length - 1 + place] for place in range(num_known + 1)]
                targets.add(index, rows, [*ids, self._end_id][: num_known + 1], finished=num_known == len(ids))
        return targets

    def planted(self, groups: Sequence[PrefixGroup], starts: Sequence[int]) -> Iterator[_Planted]:
        """Yield the trees of what is not known of the candidates.

        Args:
            starts: where each group starts in the cache.
        """
        for group, start in zip(groups, starts, strict=True):
            rest: dict[int, list[tuple[int, Sequence[int]]]] = {}
            for index, length, num_known in self.known(group):
                if num_known < len(self.candidates[index]):
                    rest.setdefault(length + num_known, []).append((index, self.candidates[index][num_known:]))
            for length, candidates in rest.items():
                yield from (_Planted(tree, start, length) for tree in trees_of(candidates))

    def tree_targets(self, planted: Sequence[_Planted]) -> _Targets:
        """Return what the outputs of some trees, one after the other, predict."""
        targets, begin = _Targets(), 0
        for tree in (one.tree for one in planted):
            for index, way in tree.ways:
                labels = [*(tree.ids[place] for place in way[1:]), self._end_id]
                targets.add(index, [begin + place for place in way], labels, finished=True)
            begin += len(tree.ids)
        return targets


@torch.inference_mode()
def branch_scores(
    forward: Forward, prompts: Sequence[Sequence[int]], rows: Sequence[Row], end_id: int, share: float = 1.0
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield (indices of some rows, their sums of log-probabilities); each prompt is computed once.

    Args:
        prompts: token ids that end with the opened reply.
        rows: candidates without end tokens.
        end_id: the token that ends a reply; it is scored too.
        share: factor for the sizes of cache and passes, 0-1; below 1 after memory ran out.

    Raises:
        torch.OutOfMemoryError: a pass does not fit; sums yielded before are valid.
    """
    sums = np.zeros(len(rows))
    launched = _passes(forward, _Asked(prompts, rows, end_id), group_by_prefix(prompts), share)
    # What a pass has found is only waited for when the next one is launched, so that a GPU always has something to do.
    before = next(launched, None)
    while before is not None:
        after = next(launched, None)
        targets, found = before
        borders = np.cumsum([0, *targets.counts[:-1]])
        sums[targets.numbers] += np.add.reduceat(found().astype(np.float64), borders)
        yield targets.finished, sums[targets.finished]
        before = after


def _passes(
    forward: Forward, asked: _Asked, groups: Sequence[PrefixGroup], share: float
) -> Iterator[tuple[_Targets, Callable[[], np.ndarray]]]:
    """Launch passes one by one; yield what each one predicts, and a function that waits for the log-probabilities."""
    cache_LPG2H = new_prefix_cache(forward, groups, share)
    batch_tokens = pass_tokens(forward, BRANCH_TOKENS[forward.path.device.type], share)
    for part in split_groups(groups, cache_LPG2H.shape[1]):
        starts: list[int] = []
        for some, begins, hidden_SD in prefill_passes(forward, part, asked.outputs, cache_LPG2H, share):
            starts += begins
            targets = asked.known_targets(some)
            if targets.numbers:
                yield targets, _log_probabilities(forward, hidden_SD, targets)
        for planted in _batches(asked.planted(part, starts), batch_tokens):
            targets = asked.tree_targets(planted)
            yield targets, _log_probabilities(forward, _tree_outputs(forward, cache_LPG2H, planted), targets)


def _batches(planted: Iterator[_Planted], most: int) -> Iterator[list[_Planted]]:
    """Yield lists of trees with at most so many tokens, or of one tree."""
    batch: list[_Planted] = []
    total = 0
    for one in planted:
        if batch and total + len(one.tree.ids) > most:
            yield batch
            batch, total = [], 0
        batch.append(one)
        total += len(one.tree.ids)
    if batch:
        yield batch


def _tree_outputs(forward: Forward, cache_LPG2H: torch.Tensor, planted: Sequence[_Planted]) -> torch.Tensor:
    """Return the last norm's output at each token of some trees, [M, D]."""
    device, trees = forward.path.device, [one.tree for one in planted]
    counts = np.array([len(tree.ids) for tree in trees], dtype=np.int64)
    borders = np.append(0, counts.cumsum())
    starts, lengths = np.array([(one.start, one.length) for one in planted], dtype=np.int64).T
    depths = np.concatenate([tree.depths for tree in trees])
    columns = [np.concatenate([tree.ids for tree in trees]), depths + np.repeat(lengths, counts)]
    ids_M, positions_M, ends_M = on_device(np.stack([*columns, np.concatenate([tree.ends for tree in trees])]), device)
    borders_S, starts_S, lengths_S, counts_S = (
        on_device(column, device) for column in (borders, starts.copy(), lengths.copy(), counts)
    )
    branches = Branches(
        len(trees), int(counts.max()), borders_S, starts_S, lengths_S, borders_S[:-1], counts_S, ends_M
    )  # fmt: skip

    def attend(number: int, qkv_MN: torch.Tensor) -> torch.Tensor:
        own_MG2H = forward.key_values(qkv_MN)
        return forward.ops.branch_attention(qkv_MN, cache_LPG2H[number], own_MG2H, branches, forward.heads)

    return forward.hidden_states(ids_M, positions_M, attend)


def _log_probabilities(forward: Forward, hidden_MD: torch.Tensor, targets: _Targets) -> Callable[[], np.ndarray]:
    """Launch the head; return a function that waits for the log-probability of each target, [E].

    The logits of an output are computed once, however many tokens it predicts.
    """
    rows = np.array(targets.rows, dtype=np.int64)
    order = rows.argsort(kind="stable")
    rows_E, labels_E = on_device(np.stack([rows[order], np.array(targets.labels)[order]]), forward.path.device)
    starts = range(0, len(hidden_MD), CHUNK_TARGETS)
    borders = [*np.searchsorted(rows[order], np.array(starts)).tolist(), len(rows)]
    found = []
    for start, first, last in zip(starts, borders, borders[1:], strict=False):
        logits_CV = forward.head(hidden_MD[start : start + CHUNK_TARGETS])
        # Any token will do: its loss is what it lacks to the logarithm of the sum of all.
        zeros_C = torch.zeros(len(logits_CV), dtype=torch.int64, device=logits_CV.device)
        nll_C = forward.ops.cross_entropy_(logits_CV, zeros_C, False)
        whole_C = nll_C + logits_CV[:, 0].to(nll_C.dtype)
        at = rows_E[first:last] - start
        found.append(logits_CV[at, labels_E[first:last]].to(nll_C.dtype) - whole_C[at])
    copied = on_host(torch.cat(found))

    def wait() -> np.ndarray:
        sorted_E = copied()
        log_probabilities = np.empty_like(sorted_E)
        log_probabilities[order] = sorted_E
        return log_probabilities

    return wait
