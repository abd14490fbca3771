"""What a model's configuration says: context length and vocabulary, and whether its numbers can be computed with."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from transformers import GenerationConfig, PreTrainedConfig

from falconer.errors import FalconerError
from falconer.model.request import Request

# The configuration keys for the number of positions.
_CONTEXT_KEYS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "seq_length", "max_target_positions",
)  # fmt: skip
# For these the value is only the training length, not a limit (ALiBi, or a recurrent state).
_UNBOUND = ("bloom", "rwkv")
# Beginnings of keys that count something, such as num_attention_heads and n_layer.
_COUNTS = ("num_", "n_")
# Twice as deep as the deepest models of research (DeepNet, arXiv:2203.00555, has 1,000). transformers makes layer after
# layer before it looks for their weights, so that a damaged number would keep it busy for ever.
_MOST_LAYERS = 2000


def context_of(config: PreTrainedConfig) -> int | None:
    """Return the context length of a model; None if it is not limited (recurrent models, ALiBi).

    MPT has ALiBi too, but only for a fixed number of positions.
    """
    text = config.get_text_config(decoder=True)
    if text.model_type in _UNBOUND or getattr(text, "alibi", False):
        return None
    values = (getattr(text, key, None) for key in _CONTEXT_KEYS)
    # XLNet says -1 for "no limit".
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def end_tokens(settings: PreTrainedConfig | GenerationConfig, name: str) -> set[int]:
    """Return the end tokens that a model's config.json or generation_config.json names.

    Raises:
        FalconerError: what it names is no token id.
    """
    named = getattr(settings, "eos_token_id", None)
    ends = [] if named is None else list(named) if isinstance(named, (list, tuple)) else [named]
    if not all(type(end) is int for end in ends):
        file = "generation_config.json" if isinstance(settings, GenerationConfig) else "config.json"
        raise FalconerError(
            f"The {file} of '{name}' is damaged: eos_token_id is {named!r}, not a token id or a list of them.",
            "Download or save the model again.",
        )
    return set(ends)


def check_numbers(config: PreTrainedConfig, name: str) -> None:
    """Check the numbers that a model is made with however wrong they are, and that its forward pass then fails on.

    Probabilities of dropout are among them also where the model is only evaluated: PyTorch refuses others there, too.

    Raises:
        FalconerError: one is out of its range; the message names it.
    """
    for key, value, allowed in _wrong_numbers(config.get_text_config(decoder=True)):
        raise FalconerError(
            f"The config.json of '{name}' is damaged: {key} is {value!r}; allowed: {allowed}.",
            "Download or save the model again.",
        )


def _wrong_numbers(config: PreTrainedConfig) -> Iterator[tuple[str, Any, str]]:
    """Yield key, value and what is allowed instead; a value that the kind of model has by default is never wrong."""
    plain: Mapping[str, Any] = {}
    with suppress(Exception):  # kinds that can't be made without arguments
        plain = type(config)().to_dict()
    for key, value in config.to_dict().items():
        if key in plain and (value is plain[key] or value == plain[key]):
            continue
        is_number = type(value) in (int, float) and -math.inf < value < math.inf
        if "drop" in key and not isinstance(value, str) and not (is_number and 0 <= value <= 1):
            yield key, value, "a probability, from 0 to 1"
        if key.endswith(("_eps", "epsilon")) and not (is_number and value >= 0):
            yield key, value, "a number of 0 or more"
        if key.startswith(_COUNTS) and is_number and value < 0:
            yield key, value, "a number of 0 or more"
        if key.startswith(_COUNTS) and key.endswith(("layer", "layers")) and is_number and value > _MOST_LAYERS:
            yield key, value, f"at most {_MOST_LAYERS:,} layers"


def vocabulary_of(config: PreTrainedConfig) -> int:
    """Return the number of rows of a model's token embedding."""
    return int(config.get_text_config(decoder=True).vocab_size)


def check_token(largest: int, config: PreTrainedConfig, where: str) -> None:
    """Check that a model has an embedding for all token ids.

    Args:
        largest: the largest token id, or the smallest.
        where: where it occurs, for the error message.

    Raises:
        FalconerError: it is negative, or the model has no embedding for it; the message names the id.
    """
    rows = vocabulary_of(config)
    if largest < 0:
        raise FalconerError(f"{where} has token id {largest:,}.", "Token ids are 0 or more.")
    if largest >= rows:
        raise FalconerError(
            f"{where} has token id {largest:,}, but the model's embedding has {rows:,} rows: the tokenizer has "
            "entries that the model does not know.",
            "Use the tokenizer that belongs to the model, or call model.resize_token_embeddings(len(tokenizer)) and "
            "save the model again.",
        )


def check_tokens(ids: Sequence[int] | np.ndarray, vocabulary: int, config: PreTrainedConfig, where: str) -> None:
    """Check all ids of a sequence as `check_token` does.

    Args:
        ids: token ids; there may be none.
        vocabulary: `vocabulary_of` the configuration, which takes too long to be asked for each of many candidates.

    Raises:
        FalconerError: see `check_token`.
    """
    if not len(ids):
        return
    # A list's own minimum and maximum: numpy would copy it first.
    least, largest = (int(ids.min()), int(ids.max())) if isinstance(ids, np.ndarray) else (min(ids), max(ids))
    if least < 0 or largest >= vocabulary:
        check_token(least if least < 0 else largest, config, where)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine checks of every request.

    Args:
        config: the model's.
        context: its context length; None if it is not limited.
        talk_tokens: tokens of the longest conversation, including its last reply.
        vocabulary: see `vocabulary_of`.
        stops: the stop tokens of requests that don't set their own.
    """

    config: PreTrainedConfig
    context: int | None
    talk_tokens: int
    vocabulary: int
    stops: tuple[int, ...]

    @classmethod
    def of(cls, config: PreTrainedConfig, max_tokens: int, stops: Sequence[int]) -> "Limits":
        """Return the limits of a model whose conversations have at most `max_tokens`."""
        context = context_of(config)
        return cls(config, context, min(max_tokens, context or max_tokens), vocabulary_of(config), tuple(stops))

    def prepared(self, request: Request, most: int | None) -> Request:
        """Check a request's tokens and length, and return it with stop tokens."""
        self.check(request.prompt, request.num_tokens, "The conversation, with its reply,", most)
        if request.decoding.stops is not None:
            self.check(request.decoding.stops, 0, "A list of stop tokens", most)
            return request
        return replace(request, decoding=replace(request.decoding, stops=self.stops))

    def check(self, ids: Sequence[int] | np.ndarray, num_tokens: int, where: str, most: int | None) -> None:
        """Check token ids, and that no more than `most` tokens are needed.

        Raises:
            FalconerError: a token is unknown, or there are too many; the message begins with `where`.
        """
        check_tokens(ids, self.vocabulary, self.config, where)
        if most and num_tokens > most:
            raise FalconerError(
                f"{where} takes {num_tokens:,} tokens, {num_tokens - most:,} more than the context allows ({most:,}).",
                "Shorten it, or ask for a shorter reply.",
            )
