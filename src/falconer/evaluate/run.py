"""Evaluating a base model and its tuned self on the same dialogues with the same prompt."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from falconer import runtime
from falconer.data.batch import collate, split_by_tokens
from falconer.data.encode import Encoder
from falconer.evaluate.floors import floor_predictions
from falconer.evaluate.metrics import text_score
from falconer.model.generate import Decoding, generate_replies
from falconer.model.score import can_use_head_on_targets, target_nll
from falconer.records import Dialogue, Example, Prediction, Score

# Called with (what is being done, done, total).
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Likelihood of the gold replies. Ratios over the whole set, never means of exponentials."""

    token_ppl: float
    word_ppl: float
    bits_per_char: float


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One system's figures and its replies."""

    score: Score
    predictions: list[Prediction]


def evaluate_model(
    model: Any, tokenizer: Any, encoder: Encoder, dialogues: Sequence[Dialogue], decoding: Decoding, *,
    max_replies: int | None, batch_size: int, autocast: torch.dtype | None, on_progress: OnProgress,
) -> Evaluated:  # fmt: skip
    """Measure one system: likelihood of all gold replies, then its own replies to the gold histories.

    Args:
        max_replies: generate replies for the first so many turns only; perplexity uses every one.
    """
    perplexity = measure_perplexity(model, encoder, dialogues, autocast, on_progress)
    predictions = predict(
        model, tokenizer, encoder, dialogues, decoding,
        max_replies=max_replies, batch_size=batch_size, autocast=autocast, on_progress=on_progress,
    )  # fmt: skip
    score = text_score([p.prediction for p in predictions], [p.reference for p in predictions])
    ended = 100 * sum(bool(p.ended) for p in predictions) / len(predictions)
    return Evaluated(dataclasses.replace(score, ended_share=ended, **dataclasses.asdict(perplexity)), predictions)


def score_floors(predictions: Sequence[Prediction]) -> dict[str, Score]:
    """Score the trivial systems on the turns of `predictions`."""
    references = [p.reference for p in predictions]
    return {name: text_score(replies, references) for name, replies in floor_predictions(predictions).items()}


@torch.inference_mode()
def measure_perplexity(
    model: Any, encoder: Encoder, dialogues: Sequence[Dialogue], autocast: torch.dtype | None, on_progress: OnProgress
) -> Perplexity:
    """Return the perplexities of all gold replies, each given its persona and gold history.

    token_ppl counts the end tokens; word_ppl and bits_per_char leave them out and divide by the replies' whitespace
    words and characters, so that they compare across tokenizers.
    """
    examples, _ = encoder.encode(dialogues)
    model.eval()
    head_on_targets = can_use_head_on_targets(model)
    lengths = [len(example.ids) for example in examples]
    order = sorted(range(len(examples)), key=lambda index: lengths[index])
    device_type = next(model.parameters()).device.type
    nll_all = nll_text = 0.0
    num_tokens = done = 0
    for group in split_by_tokens(order, lengths, budget=8192):
        batch = collate([examples[index] for index in group], encoder.end_id)
        with runtime.arithmetic(device_type, autocast):
            nll = target_nll(model, batch, head_on_targets=head_on_targets).double().cpu().numpy()
        is_end = np.concatenate([_target_is_end(examples[index]) for index in group])
        nll_all += float(nll.sum())
        nll_text += float(nll[~is_end].sum())
        num_tokens += len(nll)
        done += len(group)
        on_progress("perplexity", done, len(examples))
    replies = [
        dialogue.turns[index].text.strip()
        for dialogue, example in zip(dialogues, examples, strict=True)
        for index in example.turn_indices
    ]
    return Perplexity(
        token_ppl=math.exp(nll_all / num_tokens),
        word_ppl=math.exp(nll_text / sum(len(reply.split()) for reply in replies)),
        bits_per_char=nll_text / math.log(2) / sum(len(reply) for reply in replies),
    )


def predict(
    model: Any, tokenizer: Any, encoder: Encoder, dialogues: Sequence[Dialogue], decoding: Decoding, *,
    max_replies: int | None, batch_size: int, autocast: torch.dtype | None, on_progress: OnProgress,
) -> list[Prediction]:  # fmt: skip
    """Generate a reply to every gold history, in the order of the dialogues."""
    turns = [(d, index) for d in dialogues for index, turn in enumerate(d.turns) if turn.speaker == "self"][
        :max_replies
    ]
    prompts = [encoder.encode_prompt(d.persona, d.turns[:index], reserve=decoding.max_new_tokens) for d, index in turns]
    model.eval()
    replies: dict[int, Prediction] = {}
    for position, reply in generate_replies(
        model, tokenizer, encoder, prompts, decoding, batch_size=batch_size, autocast=autocast
    ):
        dialogue, index = turns[position]
        replies[position] = Prediction(
            dialogue_id=dialogue.id, turn=index, prediction=reply.text, reference=dialogue.turns[index].text.strip(),
            persona=dialogue.persona, history=tuple(turn.text for turn in dialogue.turns[:index]), ended=reply.ended,
        )  # fmt: skip
        on_progress("replies", len(replies), len(prompts))
    return [replies[position] for position in range(len(prompts))]


def _target_is_end(example: Example) -> np.ndarray:
    # Among the targets, in order: the last one of each reply is its end token.
    followed = np.append(example.is_target[1:], False)
    return (example.is_target & ~followed)[example.is_target]
