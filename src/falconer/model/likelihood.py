"""The negative log-likelihood of the target tokens, for the training loss and for perplexity.

With right padding and causal attention no mask is needed: no token attends to later positions, so none attends to
padding, and padding has no loss.

Shapes: B batch, T tokens, D hidden, V vocabulary, N number of targets.
"""

from falconer.model.bnb import bnb as _bnb  # noqa: F401  before peft

# isort: split
from types import ModuleType
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch.nn import functional as F

from falconer.kernels.formats import Layout
from falconer.model.falcon.adapters import has_learned_prompt
from falconer.model.falcon.attach import fast_path_of
from falconer.model.falcon.train_pass import FastPath
from falconer.records import Batch

# Logits are fp32 [chunk, V]; 1,024 targets of Falcon's 65,024 entries are 0.25 GiB.
CHUNK_TARGETS = 1024


def target_nll(model: Any, batch: Batch, *, head_on_targets: bool) -> torch.Tensor:
    """Return the negative log-likelihood of every target token, in row-major order.

    Args:
        model: a causal language model, with or without adapter.
        batch: right-padded examples; no row's first token is a target.
        head_on_targets: compute logits at target positions only; see `can_use_head_on_targets`.

    Returns:
        Nats, fp32 [N].
    """
    device = next(model.parameters()).device
    ids_BT = torch.from_numpy(batch.ids).to(device)
    is_target_BT = torch.from_numpy(batch.is_target).to(device)
    labels_N = ids_BT[is_target_BT]
    # The logits at position t-1 predict the token at t.
    predicts_BT = torch.zeros_like(is_target_BT)
    predicts_BT[:, :-1] = is_target_BT[:, 1:]
    if not head_on_targets:
        # A learned prompt is put before the text and has logits, too.
        logits_BTV = model(input_ids=ids_BT, use_cache=False).logits[:, -ids_BT.shape[1] :]
        logits_NV = logits_BTV[predicts_BT]
        return F.cross_entropy(logits_NV.float(), labels_N, reduction="none")
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    path = fast_path_of(model)
    if path is not None:
        return _fast_nll(path, base.get_output_embeddings().weight, batch)
    hidden_BTD = base.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
    head = base.get_output_embeddings()
    chunks = zip(hidden_BTD[predicts_BT].split(CHUNK_TARGETS), labels_N.split(CHUNK_TARGETS), strict=True)
    return torch.cat(
        [F.cross_entropy(_logits(head, hidden_ND).float(), labels, reduction="none") for hidden_ND, labels in chunks]
    )


def _logits(head: Any, hidden: torch.Tensor) -> torch.Tensor:
    # Some models compute the last norm's output in fp32 and cast it to the dtype of the head (Mamba).
    return head(hidden.to(next(head.parameters()).dtype))


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
    return _HeadNll.apply(path.hidden_states(ids, layout, predicting), head_VD, labels, path.ops)


class _HeadNll(torch.autograd.Function):
    """Head and negative log-likelihood in chunks; differentiable with respect to the hidden states.

    A row's gradient depends only on its own logits, so it is computed in the forward pass and only scaled in the
    backward pass: no logits are stored, and none are computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: torch.Tensor, head_VD: torch.Tensor, labels_N: torch.Tensor, ops: ModuleType
    ) -> torch.Tensor:
        needs_grad = ctx.needs_input_grad[0]
        nll, grads = [], []
        with torch.autocast(hidden_ND.device.type, enabled=False):
            chunks = zip(hidden_ND.split(CHUNK_TARGETS), labels_N.split(CHUNK_TARGETS), strict=True)
            for hidden, labels in chunks:
                logits_CV = hidden.to(head_VD.dtype) @ head_VD.T
                nll.append(ops.cross_entropy_(logits_CV, labels, needs_grad))
                if needs_grad:
                    grads.append(logits_CV @ head_VD)
                del logits_CV
        if needs_grad:
            ctx.save_for_backward(torch.cat(grads))
        return torch.cat(nll)

    @staticmethod
    def backward(ctx: Any, *grads_nll: Any) -> Any:
        (grad_ND,) = ctx.saved_tensors
        return (grad_ND * grads_nll[0].unsqueeze(1)).to(grad_ND.dtype), None, None, None


@torch.no_grad()
def can_use_head_on_targets(model: Any) -> bool:
    """Return whether applying the backbone and then the head gives this model's logits.

    That is so for most models. Some scale or cap their logits (Gemma 2, Cohere); for these, and for learned prompts of
    PEFT, the whole model is called. The adapters are within the backbone and the head.
    """
    if has_learned_prompt(model):
        return False
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    head = base.get_output_embeddings()
    if head is None or base.base_model is base:
        return False
    device = next(base.parameters()).device
    ids_BT = torch.arange(8, device=device).unsqueeze(0) % base.config.vocab_size
    was_training = base.training
    base.eval()
    whole = base(input_ids=ids_BT, use_cache=False).logits
    parts = _logits(head, base.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state)
    base.train(was_training)
    return bool(whole.shape == parts.shape and torch.allclose(whole.float(), parts.float(), rtol=1e-3, atol=1e-3))
