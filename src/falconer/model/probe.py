"""Tests on a loaded model: whether padding, its cache, or later tokens change its output.

This differs between architectures and even between versions of one, so a list of names would soon be wrong.

Shapes: T tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from falconer import runtime
from falconer.errors import FalconerError
from falconer.model.falcon.adapters import has_learned_prompt

PROBE_TOKENS = 16


@torch.inference_mode()
def how_to_batch(
    model: Any, prompt: Sequence[int], width: int, pad_id: int, autocast: torch.dtype | None
) -> Literal["padded", "equal", "alone"]:
    """Return which prompts may share a batch so that `generate` gives the replies it gives alone.

    "padded": any prompts; "equal": prompts of equal length; "alone": none. Recurrent models include padding in their
    state, or fail after it with the second token (RecurrentGemma); RWKV in transformers 5 mixes the rows of a batch.

    Args:
        prompt: the shortest prompt.
        width: tokens of the longest prompt.
    """
    alone = _first_logits(model, [list(prompt)], 0, pad_id, autocast)
    rows = [list(prompt), list(prompt)[::-1]]
    if are_alike(model, alone, _first_logits(model, rows, width - len(prompt), pad_id, autocast), autocast):
        return "padded"
    return "equal" if are_alike(model, alone, _first_logits(model, rows, 0, pad_id, autocast), autocast) else "alone"


@torch.inference_mode()
def keeps_cache(model: Any, prompt: Sequence[int], autocast: torch.dtype | None) -> bool:
    """Return whether a forward pass with `past_key_values` gives the same output as one over all tokens.

    Mamba and RWKV store their state elsewhere, and a learned prompt would be read again with each token.
    """
    if has_learned_prompt(model):
        return False
    device = next(model.parameters()).device
    ids = torch.tensor([(list(prompt) * PROBE_TOKENS)[-PROBE_TOKENS:]], device=device)
    with runtime.autocast(device.type, autocast):
        cache = getattr(model(input_ids=ids[:, :-1], use_cache=True), "past_key_values", None)
        if cache is None:
            return False
        apart = model(input_ids=ids[:, -1:], past_key_values=cache, use_cache=True).logits[0, -1:]
        whole = model(input_ids=ids, use_cache=False).logits[0, -1:]
    return are_alike(model, whole, apart, autocast)


@torch.inference_mode()
def check_causal(model: Any) -> None:
    """Reject a model whose output at a token depends on later tokens (BERT as loaded by default, XLNet).

    Raises:
        FalconerError: the model is not causal, so training loss and perplexity would be meaningless.
    """
    device = next(model.parameters()).device
    ids = torch.arange(PROBE_TOKENS, device=device).unsqueeze(0)
    changed = ids.clone()
    changed[0, -1] = 0
    was_training = model.training
    model.eval()
    one, other = (model(input_ids=each, use_cache=False).logits[0, :-1] for each in (ids, changed))
    model.train(was_training)
    if not are_alike(model, one, other, None):
        raise FalconerError(
            f"This model (type {model.config.model_type}) is not causal: its output at a token depends on later ones.",
            'Use a causal language model, or set "is_decoder": true in its config.json if its type supports that.',
        )


def _first_logits(
    model: Any, rows: list[list[int]], num_pads: int, pad_id: int, autocast: torch.dtype | None
) -> torch.Tensor:
    """Return the logits of the first row's next two tokens, [2, V], with a fixed first token."""
    device, said = next(model.parameters()).device, rows[0][-1]
    ids_BT = torch.tensor([[pad_id] * num_pads + row for row in rows], device=device)
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[:, :num_pads] = 0
    with runtime.autocast(device.type, autocast):
        output = model.generate(
            input_ids=ids_BT, attention_mask=mask_BT, max_new_tokens=2, do_sample=False, eos_token_id=None,
            pad_token_id=pad_id, output_logits=True, return_dict_in_generate=True,
            prefix_allowed_tokens_fn=lambda *_: [said],
        )  # fmt: skip
    return torch.stack([logits_BV[0] for logits_BV in output.logits])


def are_alike(model: Any, one: torch.Tensor, other: torch.Tensor, autocast: torch.dtype | None) -> bool:
    """Return whether two results differ only by rounding: by less than half of the digits of their dtype or of fp32."""
    dtype = autocast or next(model.parameters()).dtype
    error = (one.float() - other.float()).norm() / one.float().norm()
    return bool(error < max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps) ** 0.5)
