"""Generating replies: many at once for evaluation, one token at a time for chat.

A reply stops at the end token. A reply that has not stopped is cut at its first line break, where the partner's next
turn would begin in the prompt template, or at `max_new_tokens`; it counts as not ended.

The repetition penalty spares the tokens that stop a reply: to end one's turn again is no repetition, and the end token
also fills a batch's short prompts, so that a reply would depend on the batch that it was generated in.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from falconer import runtime
from falconer.data.encode import Encoder


@dataclass(frozen=True, slots=True)
class Decoding:
    """How tokens are chosen. `temperature` 0 is greedy; `top_p` and `seed` matter only above it."""

    max_new_tokens: int = 32
    temperature: float = 0.0
    top_p: float = 0.9
    repetition_penalty: float = 1.0
    seed: int = 17

    def __str__(self) -> str:
        how = (
            "greedy"
            if self.temperature == 0
            else f"temperature {self.temperature}, top-p {self.top_p}, seed {self.seed}"
        )
        penalty = f", repetition penalty {self.repetition_penalty}" if self.repetition_penalty != 1 else ""
        return f"{how}{penalty}, at most {self.max_new_tokens} tokens"


@dataclass(frozen=True, slots=True)
class Reply:
    """A generated reply, and whether the model itself ended it."""

    text: str
    ended: bool


@torch.inference_mode()
def generate_replies(
    model: Any, tokenizer: Any, encoder: Encoder, prompts: Sequence[Sequence[int]], decoding: Decoding, *,
    batch_size: int, autocast: torch.dtype | None,
) -> Iterator[tuple[int, Reply]]:  # fmt: skip
    """Yield (index of the prompt, its reply), longest prompts first.

    Args:
        prompts: token ids that end with the opened reply, of any lengths.
        autocast: number format of the arithmetic, or None for the weights' own.
    """
    device = next(model.parameters()).device
    runtime.seed_everything(decoding.seed)
    stops = _stops(encoder)
    choice: dict[str, Any] = {"do_sample": False}
    if decoding.temperature > 0:
        choice = {"do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
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
            yield index, finish(tokenizer, row, encoder.end_id)


@torch.inference_mode()
def stream_reply(
    model: Any, encoder: Encoder, prompt: Sequence[int], decoding: Decoding, autocast: torch.dtype | None
) -> Iterator[int]:
    """Yield a reply's token ids one by one, the token that stopped it last if there is one.

    Args:
        prompt: token ids that end with the opened reply.
        autocast: as in `generate_replies`; greedy replies are the same.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(decoding.seed)
    stops = _stops(encoder)
    ids = torch.tensor([list(prompt)], device=device)
    seen, cache = ids, None
    for _ in range(decoding.max_new_tokens):
        with runtime.arithmetic(device.type, autocast):
            output = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits_BV = _penalised(output.logits[:, -1].float(), seen, decoding.repetition_penalty, stops)
        ids = _choose(logits_BV[0], decoding, generator).view(1, 1)
        seen = torch.cat([seen, ids], dim=1)
        yield int(ids)
        if int(ids) in stops:
            return


def finish(tokenizer: Any, ids: Sequence[int], end_id: int) -> Reply:
    """Turn generated ids into a reply, cut as this module's first lines say."""
    ended = end_id in ids
    kept = list(ids)[: list(ids).index(end_id)] if ended else list(ids)
    text = tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    first_line = text.strip().split("\n", 1)[0]
    # A line break inside an ended reply is the model's own; before an end token it means the reply ran on.
    return Reply(text.strip(), True) if ended and "\n" not in text.strip() else Reply(first_line.strip(), False)


def _stops(encoder: Encoder) -> list[int]:
    """Return the tokens at which a reply stops: the end token, and the line break where it is one token."""
    line_break = encoder.encode_text("\n")
    return [encoder.end_id, *(line_break if len(line_break) == 1 else [])]


class _Penalty(LogitsProcessor):
    """`_penalised` as `generate` calls it."""

    def __init__(self, penalty: float, spared: list[int]) -> None:
        self._penalty, self._spared = penalty, spared

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Any:
        return _penalised(scores, input_ids, self._penalty, self._spared)


def _penalised(logits_BV: torch.Tensor, seen_BT: torch.Tensor, penalty: float, spared: list[int]) -> torch.Tensor:
    """Make tokens that were seen, in the prompt or the reply, less likely (Keskar et al. 2019, arXiv:1909.05858).

    As transformers applies it, positive logits are divided and negative ones multiplied; but `spared` tokens stay.
    """
    if penalty == 1:
        return logits_BV
    chosen_BT = logits_BV.gather(1, seen_BT)
    changed_BV = logits_BV.scatter(1, seen_BT, torch.where(chosen_BT > 0, chosen_BT / penalty, chosen_BT * penalty))
    changed_BV[:, spared] = logits_BV[:, spared]
    return changed_BV


def _choose(logits: torch.Tensor, decoding: Decoding, generator: torch.Generator) -> torch.Tensor:
    if decoding.temperature == 0:
        return logits.argmax()
    # The largest is made 0 first, so that no temperature, however low, overflows.
    probabilities, order = torch.softmax((logits - logits.max()) / decoding.temperature, dim=-1).sort(descending=True)
    # Keep the smallest set whose mass reaches top_p; the first token always stays.
    probabilities[probabilities.cumsum(dim=-1) - probabilities >= decoding.top_p] = 0
    return order[torch.multinomial(probabilities, 1, generator=generator)]
