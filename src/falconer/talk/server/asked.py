"""What both kinds of requests ask for besides the text: model, decoding, number of replies, form of the answer."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from falconer.decoding_limits import MOST_NGRAM, SCOPES
from falconer.model.request import Decoding
from falconer.talk import decoding
from falconer.talk.server.fields import Field, Flag, Ignored, Model, Number, OneOf, Only, Part, Stops
from falconer.talk.server.limits import Limits

# Alternatives of a token whose log-probabilities can be asked for.
MAX_LOGPROBS = 20
# Whatever reads JSON keeps integers up to here (RFC 8259).
MAX_SEED = 2**53
# As `Decoding` has them.
_NAMED = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "repetition_penalty_scope", "no_repeat_ngram_size",
    "no_repeat_ngram_scope",
)  # fmt: skip
_WHERE = (
    "Where it was said before: reply: in the reply; own: in earlier replies, too; prompt: in the whole prompt, too."
)
_NO_BEAMS = "replies are sent while they are generated, which beam search can't do"
# Of a request that names nothing; as in the terminal.
DEFAULT = Decoding(
    max_new_tokens=decoding.MAX_NEW_TOKENS, temperature=decoding.TEMPERATURE, top_p=decoding.TOP_P,
    repetition_penalty=decoding.REPETITION_PENALTY, min_p=decoding.MIN_P,
    no_repeat_ngram_size=decoding.NO_REPEAT_NGRAM_SIZE, no_repeat_ngram_scope=decoding.NO_REPEAT_NGRAM_SCOPE,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for.

    Args:
        decoding: without the stop tokens, which depend on the model.
        stops: texts at which a reply stops.
        is_stream: the answer is a stream of events.
        has_usage: the stream ends with the number of tokens.
        has_logprobs: the answer has the tokens with their log-probabilities.
    """

    model: str
    decoding: Decoding
    num_choices: int = 1
    stops: tuple[str, ...] = ()
    is_stream: bool = False
    has_usage: bool = False
    has_logprobs: bool = False


def shared_fields(names: tuple[str, ...], limits: Limits, default: Decoding) -> list[Field]:
    """Return the fields that both kinds of requests have.

    Args:
        names: of the models.
        default: the decoding of a request that names nothing.
    """
    max_tokens = "The most tokens of a reply."
    return [
        Model(names),
        Number("max_tokens", max_tokens, 1, limits.max_tokens, is_whole=True, default=default.max_new_tokens),
        Number("temperature", "Of sampling; 0 is greedy decoding.", 0, 2, default=default.temperature),
        Number("top_p", "Sample from the smallest set of tokens of this probability.", 0, 1, default=default.top_p),
        Number("top_k", "Sample from so many tokens; 0: all.", 0, 2**31 - 1, is_whole=True, default=default.top_k),
        Number(
            "repetition_penalty", "Makes tokens less likely that stand in the prompt or the reply; 1: off.", 0, 10,
            above=True, default=default.repetition_penalty,
        ),
        OneOf("repetition_penalty_scope", _WHERE, SCOPES, default.repetition_penalty_scope),
        Number(
            "min_p", "Sample from tokens at least this share as likely as the most likely one; 0: all.", 0, 1,
            default=default.min_p,
        ),
        Number(
            "no_repeat_ngram_size", "No sequence of so many tokens is said twice; 0: off.", 0, MOST_NGRAM,
            is_whole=True, default=default.no_repeat_ngram_size,
        ),
        OneOf("no_repeat_ngram_scope", _WHERE, SCOPES, default.no_repeat_ngram_scope),
        Number("seed", "Equal requests get equal replies.", -MAX_SEED, MAX_SEED, is_whole=True),
        Number("n", "The number of replies.", 1, limits.max_choices, is_whole=True, default=1),
        Stops(),
        Flag("stream", "Answer with server-sent events, as the reply is generated."),
        Part(
            "stream_options", "Used if the answer is a stream.",
            (Flag("include_usage", "End with an event about the number of tokens."), Ignored("include_obfuscation")),
        ),
        Only("presence_penalty", (0,), "repetition_penalty is what this server has"),
        Only("frequency_penalty", (0,), "repetition_penalty is what this server has"),
        Only("num_beams", (1,), _NO_BEAMS),
        Only("use_beam_search", (False,), _NO_BEAMS),
        Only("length_penalty", (1,), _NO_BEAMS),
        Only("logit_bias", ({},), "single tokens can't be made more or less likely"),
        Ignored("user"),
    ]  # fmt: skip


def read_asked(given: Mapping[str, Any], default: Decoding, num_logprobs: int | None) -> Asked:
    """Return what checked fields ask for.

    Args:
        given: from `fields.read_fields`.
        num_logprobs: alternatives of each token, None: no log-probabilities.
    """
    limits = [given[name] for name in ("max_tokens", "max_completion_tokens") if name in given]
    named = {name: given[name] for name in _NAMED if name in given}
    asked = replace(
        default, max_new_tokens=min(limits, default=default.max_new_tokens), num_logprobs=num_logprobs,
        # One that nobody asked for is a new one each time, so that asking again gives another reply.
        seed=given.get("seed", secrets.randbits(32)), **named,
    )  # fmt: skip
    return Asked(
        model=given["model"], decoding=asked, num_choices=given.get("n", 1), stops=given.get("stop", ()),
        is_stream=given.get("stream", False), has_logprobs=num_logprobs is not None,
        has_usage=given.get("stream_options", {}).get("include_usage", False),
    )  # fmt: skip
