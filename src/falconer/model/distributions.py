"""What a model predicts at target tokens: the log-probability of every token of its vocabulary, to compare models.

Shapes: N targets, T tokens, V vocabulary.
"""

from typing import Any

import numpy as np
import torch

from falconer import runtime
from falconer.records import Example


@torch.inference_mode()
def target_log_probs(model: Any, example: Example, precision: runtime.Precision) -> torch.Tensor:
    """Return the log-probabilities before each target token of an example, fp32 [N, V] on the CPU.

    The model's own forward pass computes them, never the fast path, so that models of any origin are treated alike.

    Args:
        model: a causal language model, with or without adapter.
        precision: of the computation.
    """
    device = next(model.parameters()).device
    ids_T = torch.from_numpy(example.ids.astype(np.int64)).to(device)
    # The logits at position t-1 predict the token at t.
    before_N = torch.from_numpy(np.flatnonzero(example.is_target) - 1).to(device)
    with runtime.autocast(device.type, precision.autocast):
        logits_TV = model(input_ids=ids_T.unsqueeze(0), use_cache=False).logits[0]
    return logits_TV[before_N].float().log_softmax(-1).cpu()


def divergence(reference_NV: torch.Tensor, other_NV: torch.Tensor) -> np.ndarray:
    """Return KL(reference || other) at each target in nats, float64 [N].

    A vocabulary that is larger by rows that no text uses is cut to the smaller one.
    """
    width = min(reference_NV.shape[1], other_NV.shape[1])
    # Normalised again: fp32's sum over a large vocabulary is wrong by up to 1e-5, as much as a good export drifts.
    ours, theirs = (one[:, :width].double().log_softmax(-1) for one in (reference_NV, other_NV))
    found: np.ndarray = (ours.exp() * (ours - theirs)).sum(-1).numpy()
    return found
