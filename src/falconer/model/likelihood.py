"""The negative log-likelihood of the target tokens, for the training loss and for perplexity.

With right padding and causal attention no mask is needed: no token attends to later positions, so none attends to
padding, and padding has no loss. Only rows with branches (`records.Tree`) need one.

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
from falconer.records import Batch, Tree

__all__ = ["CHUNK_TARGETS", "target_nll"]


def target_nll(model: Any, batch: Batch, *, head_on_targets: Head | None) -> torch.Tensor:
    """Return the negative log-likelihood of every target token, in row-major order.

    Args:
        model: a causal language model, with or without adapter.
        batch: right-padded examples; no row's first token is a target. One with a tree is for the fast path on a CPU,
            and for models that `train.objectives.ranking.shares_prompts` knows of.
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
    arrays = (batch.ids, _predicting(batch, targets), batch.ids.flatten()[targets])
    # The hidden states at position t-1 predict the token at t.
    ids_BT, predicting_N, labels_N = (torch.from_numpy(array).to(device, non_blocking=True) for array in arrays)
    named = {} if batch.tree is None else _named(batch.tree, next(model.parameters()), base.config)
    if head_on_targets is None:
        # A learned prompt is put before the text and has logits, too.
        logits_BTV = model(input_ids=ids_BT, use_cache=False, **named).logits[:, -ids_BT.shape[1] :]
        logits_NV = logits_BTV.flatten(0, 1)[predicting_N]
        return F.cross_entropy(logits_NV.float(), labels_N, reduction="none")
    hidden_BTD = base.base_model(input_ids=ids_BT, use_cache=False, **named).last_hidden_state
    # Kernels only with the layers that use them, too: the model's own forward pass runs where they can't.
    ops = ops_of(device) if has_own_layers(model) else generic_reference
    return head_on_targets.nll(hidden_BTD.flatten(0, 1).index_select(0, predicting_N), labels_N, ops)


def _fast_nll(path: FastPath, head_VD: torch.Tensor, batch: Batch) -> torch.Tensor:
    if path.device.type == "cuda":
        assert batch.tree is None, "the kernels know no branches"
        # The kernels accept concatenated rows of any lengths, so padding is not computed.
        ids_M = np.concatenate([row[:length] for row, length in zip(batch.ids, batch.lengths, strict=True)])
        is_target_M = np.concatenate([row[:length] for row, length in zip(batch.is_target, batch.lengths, strict=True)])
        starts = torch.from_numpy(np.append(0, batch.lengths.cumsum()).astype(np.int32))
        layout = Layout(len(batch.lengths), int(batch.lengths.max()), starts.to(path.device, non_blocking=True))
    else:
        ids_M, is_target_M = batch.ids.flatten(), batch.is_target.flatten()
        num_rows, longest = batch.ids.shape
        layout = Layout(num_rows, longest)
        if batch.tree is not None:
            positions_M = torch.from_numpy(batch.tree.positions.flatten())
            layout = Layout(num_rows, longest, None, positions_M, _mask(batch.tree, path.dtype, path.device))
    targets = np.flatnonzero(is_target_M)
    # A reply and its distractors are predicted at one place, whose output is computed once.
    rows, places = np.unique(_predicting(batch, targets), return_inverse=True)
    ids, predicting, labels, places_N = (
        torch.from_numpy(array).to(path.device) for array in (ids_M, rows, ids_M[targets], places)
    )
    hidden_ND = path.hidden_states(ids, layout, predicting)
    hidden_ND = hidden_ND if batch.tree is None else hidden_ND.index_select(0, places_N)
    return FrozenNll.apply(hidden_ND, head_VD, None, 1.0, None, labels, path.ops)


def _predicting(batch: Batch, targets: np.ndarray) -> np.ndarray:
    """Return the places that predict the targets, both counted over all rows."""
    if batch.tree is None:
        return targets - 1
    width = batch.ids.shape[1]
    return targets // width * width + batch.tree.predictors.flatten()[targets]


def _named(tree: Tree, like: torch.Tensor, config: Any) -> dict[str, Any]:
    """Return what a transformers model needs for rows with branches besides the token ids."""
    kind = like.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype
    named: dict[str, Any] = {"position_ids": torch.from_numpy(tree.positions).to(like.device)}
    named["attention_mask"] = _mask(tree, dtype, like.device)
    text = config.get_text_config()
    if "sliding_attention" in (getattr(text, "layer_types", None) or ()):
        # Such a model takes a mask for each type of layer. Given a single one, it would use that in all its layers.
        within = _mask(tree, dtype, like.device, text.sliding_window)
        named["attention_mask"] = {"full_attention": named["attention_mask"], "sliding_attention": within}
    return named


def _mask(tree: Tree, dtype: torch.dtype, device: torch.device, window: int | None = None) -> torch.Tensor:
    """Return 0 where a token sees another one and -inf where it does not, [B, 1, T, T].

    Args:
        window: how many tokens of its own text a token sees at most, itself included; None: all.
    """
    branches_BT, visible_BT = torch.from_numpy(tree.branches).to(device), torch.from_numpy(tree.visible).to(device)
    places_T = torch.arange(branches_BT.shape[1], device=device)
    of_dialogue_BTT = (branches_BT == 0)[:, None, :] & (places_T < visible_BT[:, :, None])
    sees_BTT = (branches_BT[:, :, None] == branches_BT[:, None, :]) | of_dialogue_BTT
    sees_BTT &= places_T[:, None] >= places_T
    if window is not None:
        positions_BT = torch.from_numpy(tree.positions).to(device)
        sees_BTT &= positions_BT[:, :, None] - positions_BT[:, None, :] < window
    return torch.zeros(sees_BTT.shape, dtype=dtype, device=device).masked_fill_(~sees_BTT, -torch.inf)[:, None]
