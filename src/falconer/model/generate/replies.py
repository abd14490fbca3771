"""Generating replies: many at once for evaluation, one token at a time for chat.

`cut.py` says where a reply ends.

A model of Falcon-7B's layout takes the falcon path (`slots.py`), where the replies of a dialogue share its prefix; any
other model takes the generic path, transformers' own `generate`. `generation_path` says which, and why.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from falconer import runtime
from falconer.data.encode import Encoder
from falconer.model.falcon.four_bit import choose_products, inference_path, why_not_falcon
from falconer.model.falcon.infer_pass import Forward
from falconer.model.generate.conversation import stream
from falconer.model.generate.cut import Reply, finish, stop_tokens
from falconer.model.generate.sampling import Decoding, KnownTokens, choose, penalised, without
from falconer.model.generate.slots import decode
from falconer.model.limits import check_token, vocabulary_of
from falconer.model.probe import how_to_batch, keeps_cache

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
        head = KnownTokens(model.get_output_embeddings(), encoder.unknown_ids(vocabulary_of(model.config)))
        forward = Forward(path, head)
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
    unknown = torch.tensor(encoder.unknown_ids(vocabulary_of(model.config)), device=device, dtype=torch.int64)
    for chosen in _batches(model, prompts, batch_size, encoder.end_id, autocast):
        width = len(prompts[chosen[0]])
        # Generation continues at the right edge, so these are padded on the left, with a mask.
        rows = [[encoder.end_id] * (width - len(prompts[index])) + list(prompts[index]) for index in chosen]
        mask = [[0] * (width - len(prompts[index])) + [1] * len(prompts[index]) for index in chosen]
        with runtime.arithmetic(device.type, autocast):
            output = model.generate(
                input_ids=torch.tensor(rows, device=device), attention_mask=torch.tensor(mask, device=device),
                max_new_tokens=decoding.max_new_tokens, eos_token_id=stops, pad_token_id=encoder.end_id,
                logits_processor=LogitsProcessorList([_Penalty(decoding.repetition_penalty, stops, unknown)]), **choice,
            )  # fmt: skip
        for index, row in zip(chosen, output[:, width:].tolist(), strict=True):
            # Behind what stopped it a row is filled with end tokens, which the model did not say.
            stop = next((place for place, token in enumerate(row) if token in stops), len(row))
            yield index, finish(tokenizer, row[: stop + 1], encoder)


@torch.inference_mode()
def stream_reply(
    model: Any, encoder: Encoder, prompt: Sequence[int], decoding: Decoding, autocast: torch.dtype | None
) -> Iterator[int]:
    """Yield a reply's token ids one by one, the token that stopped it last if there is one; all at once where a model
    has no cache of keys and values to go on from (Mamba, RWKV).

    Args:
        prompt: token ids that end with the opened reply.
        autocast: as in `generate_replies`; greedy replies are the same.
    """
    check_token(max(prompt), model.config, "The conversation")
    stops, unknown = stop_tokens(encoder), encoder.unknown_ids(vocabulary_of(model.config))
    if not why_not_falcon(model, autocast, len(prompt) + decoding.max_new_tokens):
        yield from stream(model, prompt, decoding, stops, unknown)
        return
    device = next(model.parameters()).device
    ids = torch.tensor([list(prompt)], device=device)
    unknown_ids = torch.tensor(unknown, device=device, dtype=torch.int64)
    if not keeps_cache(model, prompt, autocast):
        yield from _whole_reply(model, ids, decoding, stops, unknown_ids, autocast)
        return
    seen, cache, spared = ids, None, torch.tensor(stops, device=device)
    for step in range(decoding.max_new_tokens):
        with runtime.arithmetic(device.type, autocast):
            output = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits_BV = output.logits[:, -1].float()
        logits_BV = without(
            penalised(logits_BV, _seen(seen, logits_BV), decoding.repetition_penalty, spared), unknown_ids
        )
        number = torch.zeros(1, dtype=torch.int64, device=device)
        ids = choose(logits_BV, decoding, number, number + step).view(1, 1)
        seen = torch.cat([seen, ids], dim=1)
        yield int(ids)
        if int(ids) in stops:
            return


def _whole_reply(
    model: Any, ids_BT: torch.Tensor, decoding: Decoding, stops: list[int], unknown: torch.Tensor,
    autocast: torch.dtype | None,
) -> list[int]:  # fmt: skip
    """Return a reply all at once, with `generate`, which knows where each architecture keeps its state."""
    start = ids_BT.shape[1]
    penalty = _Penalty(decoding.repetition_penalty, stops, unknown)
    with runtime.arithmetic(ids_BT.device.type, autocast):
        output = model.generate(
            input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), max_new_tokens=decoding.max_new_tokens,
            do_sample=False, eos_token_id=stops, pad_token_id=stops[0],
            logits_processor=LogitsProcessorList([penalty, _Chosen(decoding, start)]),
        )  # fmt: skip
    return [int(token) for token in output[0, start:]]


def _batches(
    model: Any, prompts: Sequence[Sequence[int]], batch_size: int, pad_id: int, autocast: torch.dtype | None
) -> list[list[int]]:
    """Cut the prompts, the longest first, into batches in which each gets the reply that it would get alone."""
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    if min(batch_size, len(order)) < 2:
        return [[index] for index in order]
    way = how_to_batch(model, prompts[order[-1]], len(prompts[order[0]]), pad_id, autocast)
    if way == "alone":
        return [[index] for index in order]
    parts = [order]
    if way == "equal":
        parts = [list(group) for _, group in itertools.groupby(order, key=lambda index: len(prompts[index]))]
    return [part[start : start + batch_size] for part in parts for start in range(0, len(part), batch_size)]


class _Penalty(LogitsProcessor):
    """`penalised` and `without` as `generate` calls them.

    It spares the end token also because that fills a batch's short prompts: a reply would depend on its batch.
    """

    def __init__(self, penalty: float, spared: list[int], unknown: torch.Tensor) -> None:
        self._penalty, self._spared, self._unknown = penalty, spared, unknown

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Any:
        spared = torch.tensor(self._spared, device=scores.device)
        return without(penalised(scores, _seen(input_ids, scores), self._penalty, spared), self._unknown)


class _Chosen(LogitsProcessor):
    """Lets `generate` take the token that `choose` takes.

    Args:
        start: tokens of the prompt.
    """

    def __init__(self, decoding: Decoding, start: int) -> None:
        self._decoding, self._start = decoding, start

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Any:
        number = torch.zeros(1, dtype=torch.int64, device=scores.device)
        token = choose(scores.float(), self._decoding, number, number + input_ids.shape[1] - self._start)
        return torch.full_like(scores, -torch.inf).index_fill_(1, token, 0.0)


def _seen(ids_BT: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
    """Return which tokens are among `ids_BT`, bool [B, V]."""
    return torch.zeros_like(logits_BV, dtype=torch.bool).scatter_(1, ids_BT, True)
