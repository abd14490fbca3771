"""The negative log-likelihood of the target tokens, for the training loss and for perplexity.

With right padding and causal attention no mask is needed: no token attends to later positions, so none attends to
padding, and padding has no loss.

Shapes: B batch, T tokens, V vocabulary, D hidden, N number of targets.
"""

from falconer.model.bnb import bnb as _bnb  # noqa: F401  before peft

# isort: split
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch.nn import functional as F

from falconer.kernels import generic_reference
from falconer.kernels.formats import Layout
from falconer.model.falcon.attach import fast_path_of
from falconer.model.falcon.train_pass import FastPath
from falconer.model.layers.ops import ops_of
from falconer.model.layers.replace import has_own_layers
from falconer.model.output_head import CHUNK_TARGETS, FrozenNll, Head
from falconer.records import Batch

__all__ = ["CHUNK_TARGETS", "target_nll"]


def target_nll(model: Any, batch: Batch, *, head_on_targets: Head | None) -> torch.Tensor:
    """Return the negative log-likelihood of every target token, in row-major order.

    Args:
        model: a causal language model, with or without adapter.
        batch: right-padded examples; no row's first token is a target.
        head_on_targets: the model's head, to compute logits at target positions only; None: the model computes those of
            all positions. See `output_head.head_of`.

    Returns:
        Nats, fp32 [N].
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    path = fast_path_of(model)
    if path is not None and head_on_targets is not None:
        return _fast_nll(path, base.get_output_embeddings().weight, batch)
    device = next(model.parameters()).device
    # Places are counted on the host, so that no pass has to wait for the one before.
    targets = np.flatnonzero(batch.is_target)
    arrays = (batch.ids, targets - 1, batch.ids.flatten()[targets])
    # The hidden states at position t-1 predict the token at t.
    ids_BT, predicting_N, labels_N = (torch.from_numpy(array).to(device, non_blocking=True) for array in arrays)
    if head_on_targets is None:
        # A learned prompt is put before the text and has logits, too.
        logits_BTV = model(input_ids=ids_BT, use_cache=False).logits[:, -ids_BT.shape[1] :]
        logits_NV = logits_BTV.flatten(0, 1)[predicting_N]
        return F.cross_entropy(logits_NV.float(), labels_N, reduction="none")
    hidden_BTD = base.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
    # Kernels only with the layers that use them, too: the model's own forward pass runs where they can't.
    ops = ops_of(device) if has_own_layers(model) else generic_reference
    return head_on_targets.nll(hidden_BTD.flatten(0, 1).index_select(0, predicting_N), labels_N, ops)


def _fast_nll(path: FastPath, head_VD: torch.Tensor, batch: Batch) -> torch.Tensor:
    if path.device.type == "cuda":
        # The kernels accept concatenated rows of any lengths, so padding is not computed.
        ids_M = np.concatenate([row[:length] for row, length in zip(batch.ids, batch.lengths, strict=True)])
        is_target_M = np.concatenate([row[:length] for row, length in zip(batch.is_target, batch.lengths, strict=True)])
        starts = torch.from_numpy(np.append(0, batch.lengths.cumsum()).astype(np.int32))
        layout = Layout(len(batch.lengths), int(batch.lengths.max()), starts.to(path.device, non_blocking=True))
    else:
        ids_M, is_target_M = batch.ids.flatten(), batch.is_target.flatten()
        layout = Layout(*batch.ids.shape)
    targets = np.flatnonzero(is_target_M)
    ids, predicting, labels = (
        torch.from_numpy(array).to(path.device) for array in (ids_M, targets - 1, ids_M[targets])
    )
    return FrozenNll.apply(path.hidden_states(ids, layout, predicting), head_VD, None, 1.0, None, labels, path.ops)
