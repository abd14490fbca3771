"""How probable a model finds each of several replies to the same prompt.

Shapes: S rows or branches, M tokens of a pass, D hidden, V vocabulary, N outputs of the projection, L layers, P tokens
of the prefix cache, H head size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from falconer import runtime
from falconer.data.batch import collate, split_by_tokens
from falconer.kernels.formats import Branches
from falconer.model.falcon.four_bit import inference_path, why_not_falcon
from falconer.model.falcon.infer_pass import Forward
from falconer.model.generate.prefix import cache_room, families_of, prefill, split_families
from falconer.model.likelihood import CHUNK_TARGETS, can_use_head_on_targets, target_nll
from falconer.model.limits import check_token
from falconer.records import Example

# Candidates' tokens of one pass on the falcon path.
BRANCH_TOKENS = {"cuda": 32768, "cpu": 2048}
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


def score_candidates(
    model: Any, prompts: Sequence[Sequence[int]], candidates: Sequence[Sequence[Sequence[int]]], *,
    end_id: int, autocast: torch.dtype | None, on_progress: Callable[[int, int], None], batch_tokens: int | None = None,
) -> list[CandidateScores]:  # fmt: skip
    """Score every candidate of every prompt: on the falcon path behind its prompt, which is computed once for a
    dialogue, on the generic path as a whole sequence.

    Args:
        prompts: token ids that end with the opened reply, one list for each turn.
        candidates: for each prompt, the token ids of its candidates without end tokens.
        end_id: the token that ends a reply; it is scored too.
        autocast: number format of the arithmetic, or None for the weights' own.
        on_progress: called with (candidates done, all of them).
        batch_tokens: tokens of one forward pass, pads included; None: what suits path and device.
    """
    rows = [(number, reply) for number, replies in enumerate(candidates) for reply in replies]
    counts = np.array([len(reply) + 1 for _, reply in rows], dtype=np.int64)
    longest = max((len(prompts[number]) + len(reply) for number, reply in rows), default=0)
    check_token(max((max(reply, default=0) for _, reply in rows), default=0), model.config, "A candidate")
    model.eval()
    with torch.inference_mode():
        if why_not_falcon(model, autocast, longest):
            sums = _by_sequence(model, prompts, rows, end_id, autocast, on_progress, batch_tokens or 8192)
        else:
            path = inference_path(model, num_rows=batch_tokens or 8192)
            forward = Forward(path, model.get_output_embeddings())
            tokens = batch_tokens or BRANCH_TOKENS[path.device.type]
            sums = _by_branch(forward, prompts, rows, end_id, on_progress, tokens)
    ends = np.cumsum([len(replies) for replies in candidates])
    starts = np.append(0, ends)[:-1]
    return [CandidateScores(sums[s:e], counts[s:e]) for s, e in zip(starts, ends, strict=True)]


def _by_sequence(
    model: Any, prompts: Sequence[Sequence[int]], rows: list[Row], end_id: int, autocast: torch.dtype | None,
    on_progress: Callable[[int, int], None], batch_tokens: int,
) -> np.ndarray:  # fmt: skip
    examples = [_example(prompts[number], reply, end_id) for number, reply in rows]
    sums = np.zeros(len(rows))
    head_on_targets = can_use_head_on_targets(model)
    device_type = next(model.parameters()).device.type
    lengths = [len(example.ids) for example in examples]
    order = sorted(range(len(rows)), key=lambda index: lengths[index])
    done = 0
    for group in split_by_tokens(order, lengths, batch_tokens):
        batch = collate([examples[index] for index in group], end_id)
        with runtime.arithmetic(device_type, autocast):
            nll = target_nll(model, batch, head_on_targets=head_on_targets).double().cpu().numpy()
        starts = np.cumsum([0, *(examples[index].num_targets for index in group)])[:-1]
        sums[group] = -np.add.reduceat(nll, starts)
        done += len(group)
        on_progress(done, len(rows))
    return sums


def _by_branch(
    forward: Forward, prompts: Sequence[Sequence[int]], rows: list[Row], end_id: int,
    on_progress: Callable[[int, int], None], batch_tokens: int,
) -> np.ndarray:  # fmt: skip
    """Return the candidates' sums: the first token from the prompt's last output, the others from the branch."""
    lengths = [len(prompt) for prompt in prompts]
    families = families_of(prompts)
    room = cache_room(forward, max((len(family.ids) for family in families), default=0))
    cache_LP2H = forward.new_cache(min(room, sum(len(family.ids) for family in families)))
    of_prompt: list[list[int]] = [[] for _ in prompts]
    for index, (number, _) in enumerate(rows):
        of_prompt[number].append(index)
    sums, done = np.zeros(len(rows)), 0
    for part in split_families(families, room):
        found = prefill(forward, part, lengths, cache_LP2H)
        asked = [(place, index) for place, number in enumerate(found.numbers) for index in of_prompt[number]]
        firsts = [(place, [*rows[index][1], end_id][0]) for place, index in asked]
        for (_, index), score in zip(asked, _first_scores(forward, found.hidden, firsts), strict=True):
            sums[index] = score
        # An empty candidate is its end token alone, which the prompt's output has said all about.
        longer = [(place, index) for place, index in asked if rows[index][1]]
        done += len(asked) - len(longer)
        for start, end in _cuts([len(rows[index][1]) for _, index in longer], batch_tokens):
            group = longer[start:end]
            places = [(found.starts[place], lengths[found.numbers[place]]) for place, _ in group]
            scores = _branch_scores(forward, cache_LP2H, places, [rows[index][1] for _, index in group], end_id)
            sums[[index for _, index in group]] += scores
            done += len(group)
            on_progress(done, len(rows))
    on_progress(done, len(rows))
    return sums


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


def _branch_scores(
    forward: Forward, cache_LP2H: torch.Tensor, places: list[tuple[int, int]], replies: list[Sequence[int]], end_id: int
) -> np.ndarray:
    """Return for each reply the log-probability of its tokens behind the first, and of its end token.

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
        own_M2H = forward.key_values(qkv_MN)
        return forward.ops.branch_attention(qkv_MN, cache_LP2H[number], own_M2H, branches, forward.head_size)

    hidden_MD = forward.hidden_states(ids_M, positions_M, attend)
    nll_M = torch.cat([
        forward.ops.cross_entropy_(forward.head(hidden), labels, False)
        for hidden, labels in zip(hidden_MD.split(CHUNK_TARGETS), labels_M.split(CHUNK_TARGETS), strict=True)
    ])  # fmt: skip
    return -np.add.reduceat(nll_M.double().cpu().numpy(), borders[:-1])


def _cuts(sizes: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of stretches whose sizes add up to `most` at the most, or that have one element."""
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and total + size > most:
            yield start, index
            start, total = index, 0
        total += size
    if sizes:
        yield start, len(sizes)


def _example(prompt: Sequence[int], reply: Sequence[int], end_id: int) -> Example:
    ids = np.array([*prompt, *reply, end_id], dtype=np.int32)
    return Example(ids, np.arange(len(ids)) >= len(prompt), "", (len(prompt),), (len(ids),), (0,))
