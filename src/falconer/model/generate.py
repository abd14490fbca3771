"""Generating replies: many at once for evaluation, one token at a time for chat.

`reply.py` says where a reply ends.

A model of Falcon-7B's layout takes the falcon path (`decode.py`), where the replies of a dialogue share its prefix; any
other model takes the generic path, transformers' own `generate`. `generation_path` says which, and why.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from falconer import runtime
from falconer.data.encode import Encoder
from falconer.model.decode import decode
from falconer.model.forward import Forward
from falconer.model.products import choose_products, inference_path, why_not_falcon
from falconer.model.reply import Reply, finish, stop_tokens
from falconer.model.sampling import Decoding, choose, penalised
from falconer.model.stream import stream

__all__ = ["Decoding", "Reply", "generate_replies", "generation_path", "stream_reply"]


def generation_path(model: Any, autocast: torch.dtype | None, num_rows: int = 64) -> tuple[str, str]:
    """Return which path generates with a model, "falcon" or "generic", and why.

    Args:
        autocast: as for `generate_replies`.
        num_rows: replies at once; 1 for a conversation.
    """
    reason = why_not_falcon(model, autocast)
    return ("generic", reason) if reason else ("falcon", choose_products(model, num_rows).why)


@torch.inference_mode()
def generate_replies(
    model: Any, tokenizer: Any, encoder: Encoder, prompts: Sequence[Sequence[int]], decoding: Decoding, *,
    batch_size: int, autocast: torch.dtype | None,
) -> Iterator[tuple[int, Reply]]:  # fmt: skip
    """Yield (index of the prompt, its reply), the longest prompts first; on the falcon path as they are finished.

    Args:
        prompts: token ids that end with the opened reply, of any lengths.
        batch_size: prompts of a batch. On the falcon path, which computes a dialogue's prompts together, replies in the
            making at once on the CPU; a GPU has room for more and takes what suits it.
        autocast: number format of the arithmetic, or None for the weights' own.
    """
    stops = stop_tokens(encoder)
    longest = max(map(len, prompts), default=0) + decoding.max_new_tokens
    if not why_not_falcon(model, autocast, longest):
        path = inference_path(model, min(len(prompts), batch_size))
        num_slots = batch_size if path.device.type == "cpu" else None
        forward = Forward(path, model.get_output_embeddings())
        for index, ids in decode(forward, prompts, decoding, stops, num_slots):
            yield index, finish(tokenizer, ids, encoder)
        return
    device = next(model.parameters()).device
    runtime.seed_everything(decoding.seed)
    choice: dict[str, Any] = {"do_sample": False}
    if decoding.temperature > 0:
        choice = {
            "do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": decoding.top_k
        }  # fmt: skip
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        width = len(prompts[chosen[0]])
        # Generation continues at the right edge, so these are padded on the left, with a mask.
        rows = [[encoder.end_id] * (width - len(prompts[index])) + list(prompts[index]) for index in chosen]
        mask = [[0] * (width - len(prompts[index])) + [1] * len(prompts[index]) for index in chosen]
        with runtime.arithmetic(device.type, autocast):
            output = model.generate(
                input_ids=torch.tensor(rows, device=device), attention_mask=torch.tensor(mask, device=device),
                max_new_tokens=decoding.max_new_tokens, eos_token_id=stops, pad_token_id=encoder.end_id,
                logits_processor=LogitsProcessorList([_Penalty(decoding.repetition_penalty, stops)]), **choice,
            )  # fmt: skip
        for index, row in zip(chosen, output[:, width:].tolist(), strict=True):
            # Behind what stopped it a row is filled with end tokens, which the model did not say.
            stop = next((place for place, token in enumerate(row) if token in stops), len(row))
            yield index, finish(tokenizer, row[: stop + 1], encoder)


@torch.inference_mode()
def stream_reply(
    model: Any, encoder: Encoder, prompt: Sequence[int], decoding: Decoding, autocast: torch.dtype | None
) -> Iterator[int]:
    """Yield a reply's token ids one by one, the token that stopped it last if there is one.

    Args:
        prompt: token ids that end with the opened reply.
        autocast: as in `generate_replies`; greedy replies are the same.
    """
    stops = stop_tokens(encoder)
    if not why_not_falcon(model, autocast, len(prompt) + decoding.max_new_tokens):
        yield from stream(model, prompt, decoding, stops)
        return
    device = next(model.parameters()).device
    ids = torch.tensor([list(prompt)], device=device)
    seen, cache, spared = ids, None, torch.tensor(stops, device=device)
    for step in range(decoding.max_new_tokens):
        with runtime.arithmetic(device.type, autocast):
            output = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits_BV = output.logits[:, -1].float()
        logits_BV = penalised(logits_BV, _seen(seen, logits_BV), decoding.repetition_penalty, spared)
        number = torch.zeros(1, dtype=torch.int64, device=device)
        ids = choose(logits_BV, decoding, number, number + step).view(1, 1)
        seen = torch.cat([seen, ids], dim=1)
        yield int(ids)
        if int(ids) in stops:
            return


class _Penalty(LogitsProcessor):
    """`penalised` as `generate` calls it.

    It spares the end token also because that fills a batch's short prompts: a reply would depend on its batch.
    """

    def __init__(self, penalty: float, spared: list[int]) -> None:
        self._penalty, self._spared = penalty, spared

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Any:
        spared = torch.tensor(self._spared, device=scores.device)
        return penalised(scores, _seen(input_ids, scores), self._penalty, spared)


def _seen(ids_BT: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
    """Return which tokens are among `ids_BT`, bool [B, V]."""
    return torch.zeros_like(logits_BV, dtype=torch.bool).scatter_(1, ids_BT, True)
