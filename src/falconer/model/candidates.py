"""How probable a model finds each of several replies to the same prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from falconer import runtime
from falconer.data.batch import collate, split_by_tokens
from falconer.model.score import can_use_head_on_targets, target_nll
from falconer.records import Example


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
def score_candidates(
    model: Any, prompts: Sequence[Sequence[int]], candidates: Sequence[Sequence[Sequence[int]]], *,
    end_id: int, autocast: torch.dtype | None, on_progress: Callable[[int, int], None], batch_tokens: int = 8192,
) -> list[CandidateScores]:  # fmt: skip
    """Score every candidate of every prompt, the whole sequence each.

    Args:
        prompts: token ids that end with the opened reply, one list for each turn.
        candidates: for each prompt, the token ids of its candidates without end tokens.
        end_id: the token that ends a reply; it is scored too.
        autocast: number format of the arithmetic, or None for the weights' own.
        on_progress: called with (candidates done, all of them).
        batch_tokens: padded tokens of one forward pass.
    """
    examples = [
        _example(prompt, reply, end_id)
        for prompt, replies in zip(prompts, candidates, strict=True)
        for reply in replies
    ]
    sums, counts = np.zeros(len(examples)), np.array([example.num_targets for example in examples], dtype=np.int64)
    model.eval()
    head_on_targets = can_use_head_on_targets(model)
    device_type = next(model.parameters()).device.type
    lengths = [len(example.ids) for example in examples]
    order = sorted(range(len(examples)), key=lambda index: lengths[index])
    done = 0
    for group in split_by_tokens(order, lengths, batch_tokens):
        batch = collate([examples[index] for index in group], end_id)
        with runtime.arithmetic(device_type, autocast):
            nll = target_nll(model, batch, head_on_targets=head_on_targets).double().cpu().numpy()
        starts = np.cumsum([0, *counts[group][:-1]])
        sums[group] = -np.add.reduceat(nll, starts)
        done += len(group)
        on_progress(done, len(examples))
    ends = np.cumsum([len(replies) for replies in candidates])[:-1]
    return [CandidateScores(*pair) for pair in zip(np.split(sums, ends), np.split(counts, ends), strict=True)]


def _example(prompt: Sequence[int], reply: Sequence[int], end_id: int) -> Example:
    ids = np.array([*prompt, *reply, end_id], dtype=np.int32)
    return Example(ids, np.arange(len(ids)) >= len(prompt), "", (len(prompt),), (0,))
