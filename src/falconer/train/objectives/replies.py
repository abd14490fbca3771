"""The log-probability of replies to their prompts, with gradient: each with its end token, in a row of its own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from falconer.model.output_head import Head
from falconer.records import Batch, Example
from falconer.train.recorded import Recorded
from falconer.train.step import nlls


def reply_row(prompt: Sequence[int] | np.ndarray, reply: Sequence[int] | np.ndarray, name: str) -> Example:
    """Return a prompt and a reply as a row whose targets are the reply's tokens.

    Args:
        prompt: token ids up to the tag that opens the reply, as `Encoder.encode_prompt` gives them.
        reply: the reply's token ids and its end token, as `Encoder.encode_reply` gives them.
        name: what an error calls the row, such as the dialogue's id.
    """
    ids = np.concatenate([np.asarray(prompt, dtype=np.int32), np.asarray(reply, dtype=np.int32)])
    start, end = len(prompt), len(ids)
    return Example(
        ids=ids, is_target=np.arange(end) >= start, dialogue_id=name,
        reply_starts=(start,), reply_ends=(end,), turn_indices=(0,),
    )  # fmt: skip


def reply_log_probabilities(
    model: Any, batch: Batch, *, head_on_targets: Head | None, autocast: torch.dtype | None,
    recorded: Recorded | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return the log-probability of each row's reply, given its prompt, and its number of tokens, end token included.

    Their quotient is the mean that `falconer evaluate` ranks candidates by.

    Args:
        batch: rows of `reply_row`, collated.
        head_on_targets, autocast, recorded: see `train.step.nlls`.

    Returns:
        Sums in nats, fp32 [B], with gradient; numbers of tokens, fp32 [B].
    """
    sizes = batch.is_target.sum(axis=1).tolist()
    nll_N = nlls(model, batch, head_on_targets=head_on_targets, autocast=autocast, recorded=recorded)
    # Row by row, as torch adds in a fixed order then; scattered additions have none on a GPU.
    sums_B = -torch.stack([part.sum() for part in nll_N.split(sizes)])
    return sums_B, torch.tensor(sizes, dtype=sums_B.dtype, device=sums_B.device)
