"""The work of an evaluation in tokens, which is said before it begins."""

from collections.abc import Sequence

from falconer.config import EvaluateConfig
from falconer.evaluate.measure import reply_turns
from falconer.model.engine import Engine
from falconer.records import Dialogue

# Turns whose candidates are counted; there may be thousands of each.
_COUNTED_TURNS = 50


def work_in_words(engine: Engine, dialogues: Sequence[Dialogue], settings: EvaluateConfig) -> str:
    """Return how many tokens are computed of each system.

    Args:
        dialogues: those that are evaluated.
    """
    encoder, shares = engine.encoder, engine.shares_prompts
    examples, _ = encoder.encode([dialogue for dialogue in dialogues if encoder.fits(dialogue)])
    turns = reply_turns(dialogues)[: settings.max_replies]
    prompts = [encoder.encode_prompt(d.persona, d.turns[:at], reserve=settings.max_new_tokens) for d, at in turns]
    read = _prompt_tokens(prompts, shares)
    parts = [
        f"{sum(len(example.ids) for example in examples):,} tokens for perplexity",
        f"{read:,} of prompts and up to {len(turns) * settings.max_new_tokens:,} of replies for {len(turns):,} replies",
    ]
    ranked = [
        (prompt, d.turns[at].candidates)
        for prompt, (d, at) in list(zip(prompts, turns, strict=True))[: settings.max_ranked]
        if len(d.turns[at].candidates) > 1
    ]
    if ranked:
        some = [texts for _, texts in ranked[:_COUNTED_TURNS]]
        each = sum(len(encoder.encode_text(f" {text}")) for texts in some for text in texts) / sum(map(len, some))
        num = sum(len(texts) for _, texts in ranked)
        again = _prompt_tokens([prompt for prompt, _ in ranked], shares)
        if not shares:
            again = sum(len(prompt) * len(texts) for prompt, texts in ranked)
        parts.append(f"{again:,} of prompts and about {round(each * num):,} of {num:,} candidates for hits@1")
    why = "" if shares else "; this model's cache can't be shared, so each reply and candidate has its own prompt"
    return f"{', '.join(parts)}{why}"


def _prompt_tokens(prompts: Sequence[Sequence[int]], shares: bool) -> int:
    """Return the tokens of prompts; where they are shared, a prompt is part of the next one of its dialogue."""
    following = [*prompts[1:], ()]
    pairs = zip(prompts, following, strict=True)
    return sum(len(one) for one, after in pairs if not shares or tuple(after[: len(one)]) != tuple(one))
