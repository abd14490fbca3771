"""The log-likelihoods of candidate replies on the fast path, with each prompt computed once.

Shapes: S rows or branches, M tokens of a pass, D hidden, V vocabulary, N outputs of the projection, L layers, P tokens
of the prefix cache, G key/value heads, H head size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch

from falconer.kernels.formats import Branches
from falconer.model.falcon.infer_pass import Forward
from falconer.model.generate.prefix import group_by_prefix, new_prefix_cache, pass_tokens, prefill, split_groups
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


@torch.inference_mode()
def branch_scores(
    forward: Forward, prompts: Sequence[Sequence[int]], rows: Sequence[Row], end_id: int, share: float = 1.0
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield (indices of some rows, their sums of log-probabilities); each prompt is computed once.

    The prompt's last output gives the log-probability of the first token, the branch those of the others.

    Args:
        prompts: token ids that end with the opened reply.
        rows: candidates without end tokens.
        end_id: the token that ends a reply; it is scored too.
        share: factor for the sizes of cache and passes, 0-1; below 1 after memory ran out.

    Raises:
        torch.OutOfMemoryError: a pass does not fit; sums yielded before are valid.
    """
    lengths = [len(prompt) for prompt in prompts]
    groups = group_by_prefix(prompts)
    cache_LPG2H = new_prefix_cache(forward, groups, share)
    batch_tokens = pass_tokens(forward, BRANCH_TOKENS[forward.path.device.type], share)
    of_prompt: list[list[int]] = [[] for _ in prompts]
    for index, (number, _) in enumerate(rows):
        of_prompt[number].append(index)
    for part in split_groups(groups, cache_LPG2H.shape[1]):
        found = prefill(forward, part, lengths, cache_LPG2H, share)
        asked = [(place, index) for place, number in enumerate(found.numbers) for index in of_prompt[number]]
        pairs = [(place, [*rows[index][1], end_id][0]) for place, index in asked]
        scores = _first_scores(forward, found.hidden, pairs)
        firsts = {index: score for (_, index), score in zip(asked, scores, strict=True)}
        # An empty candidate is only the end token, which the prompt's output has scored.
        longer = [(place, index) for place, index in asked if rows[index][1]]
        empty = [index for _, index in asked if not rows[index][1]]
        yield empty, np.array([firsts[index] for index in empty])
        for start, end in _cuts([len(rows[index][1]) for _, index in longer], batch_tokens):
            group = longer[start:end]
            places = [(found.starts[place], lengths[found.numbers[place]]) for place, _ in group]
            numbers = [index for _, index in group]
            behind = _behind_first(forward, cache_LPG2H, places, [rows[index][1] for index in numbers], end_id)
            yield numbers, np.array([firsts[index] for index in numbers]) + behind


def _first_scores(forward: Forward, hidden_SD: torch.Tensor, firsts: list[tuple[int, int]]) -> list[float]:
    """Return the log-probability of each (row of `hidden_SD`, token)."""
    scores = []
    for start in range(0, len(hidden_SD), CHUNK_TARGETS):
        end = start + CHUNK_TARGETS
        pairs = [(row - start, token) for row, token in firsts if start <= row < end]
        logits_SV = forward.logits(hidden_SD[start:end])
        rows, tokens = torch.tensor(pairs, dtype=torch.int64).view(-1, 2).T.to(hidden_SD.device)
        scores += (logits_SV[rows, tokens] - logits_SV.logsumexp(dim=1)[rows]).tolist()
    return scores


def _behind_first(
    forward: Forward,
    cache_LPG2H: torch.Tensor,
    places: list[tuple[int, int]],
    replies: list[Sequence[int]],
    end_id: int,
) -> np.ndarray:
    """Return for each reply the log-probability of its tokens after the first, and of its end token.

    Args:
        places: (start, length) of each one's prompt in the cache.
    """
    counts = np.array([len(reply) for reply in replies], dtype=np.int64)
    borders = np.append(0, counts.cumsum())
    starts, lengths = np.array(places, dtype=np.int64).T
    ids = np.concatenate([np.asarray(reply, dtype=np.int64) for reply in replies])
    labels = np.append(ids[1:], end_id)
    labels[borders[1:] - 1] = end_id
    positions = np.arange(len(ids)) + np.repeat(lengths - borders[:-1], counts)
    columns = [ids, labels, positions, borders, starts, lengths, counts]
    ids_M, labels_M, positions_M, borders_S, *where = (
        torch.from_numpy(np.ascontiguousarray(column)).to(forward.path.device) for column in columns
    )
    branches = Branches(len(replies), int(counts.max()), borders_S, where[0], where[1], borders_S[:-1], where[2])

    def attend(number: int, qkv_MN: torch.Tensor) -> torch.Tensor:
        own_MG2H = forward.key_values(qkv_MN)
        return forward.ops.branch_attention(qkv_MN, cache_LPG2H[number], own_MG2H, branches, forward.heads)

    hidden_MD = forward.hidden_states(ids_M, positions_M, attend)
    nll_M = torch.cat([
        forward.ops.cross_entropy_(forward.head(hidden), labels, False)
        for hidden, labels in zip(hidden_MD.split(CHUNK_TARGETS), labels_M.split(CHUNK_TARGETS), strict=True)
    ])  # fmt: skip
    return -np.add.reduceat(nll_M.double().cpu().numpy(), borders[:-1])


def _cuts(sizes: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of chunks whose sizes add up to at most `most`, or that have one element."""
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and total + size > most:
            yield start, index
            start, total = index, 0
        total += size
    if sizes:
        yield start, len(sizes)
