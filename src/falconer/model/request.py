"""What a model is asked for, and the tokens that it says.

Without torch, so that a process without a model can use these records, too: a server's HTTP processes do.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from falconer.decoding_limits import MOST_BEAMS, MOST_NGRAM, Scope

# How many of the most probable tokens may be asked for; OpenAI's interface allows as many.
MOST_LOGPROBS = 20
_SCOPES: Mapping[Scope, str] = MappingProxyType(
    {
        "reply": " within the reply",
        "own": " within the reply and own earlier turns",
        "prompt": " within prompt and reply",
    }
)


@dataclass(frozen=True, slots=True)
class Decoding:
    """How tokens are chosen, and the maximum length of a reply.

    `temperature` 0 is greedy decoding; `top_p`, `top_k` and `seed` are only used above 0. `top_k` 0 keeps all tokens.

    Args:
        stops: tokens at which a reply stops; none: it gets `max_new_tokens` in any case. None: those of the engine's
            encoder (`cut.stop_tokens`).
        num_logprobs: for the running batch: return each token's log-probability, and those of so many of the most
            probable tokens, at most `MOST_LOGPROBS`; None: none of them.
        min_p: used above temperature 0: keep tokens at least this share as likely as the most likely one (Nguyen et al.
            2024, arXiv:2407.01082).
        no_repeat_ngram_size: no sequence of so many tokens occurs twice (Paulus et al. 2017, arXiv:1705.04304), apart
            from stop tokens; 0: off, at most `MOST_NGRAM`.
        no_repeat_ngram_scope: where else the sequence must not occur; "prompt" is transformers' rule.
        repetition_penalty_scope: whose tokens are penalised besides those of the reply.
        num_beams: beam search with so many beams, at most `MOST_BEAMS`; 1: off. Only at temperature 0 and without
            log-probabilities.
        length_penalty: of beam search: a reply's log-probability is divided by its number of tokens to this power.

    Raises:
        ValueError: a number is out of its range, or beam search is combined with sampling or log-probabilities.
    """

    max_new_tokens: int = 32
    temperature: float = 0.0
    top_p: float = 0.9
    repetition_penalty: float = 1.0
    seed: int = 17
    top_k: int = 0
    stops: tuple[int, ...] | None = None
    num_logprobs: int | None = None
    min_p: float = 0.0
    no_repeat_ngram_size: int = 0
    no_repeat_ngram_scope: Scope = "reply"
    repetition_penalty_scope: Scope = "prompt"
    num_beams: int = 1
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        # NaN is on no side of a border.
        if not (self.temperature >= 0 and self.top_p >= 0 and self.repetition_penalty > 0 and self.top_k >= 0):
            raise ValueError("temperature, top_p and top_k are at least 0, and the repetition penalty is above it")
        if self.num_logprobs is not None and not 0 <= self.num_logprobs <= MOST_LOGPROBS:
            raise ValueError(f"num_logprobs is 0 to {MOST_LOGPROBS}, or None")
        if not (0 <= self.min_p <= 1 and 0 <= self.no_repeat_ngram_size <= MOST_NGRAM):
            raise ValueError(f"min_p is 0 to 1, and no_repeat_ngram_size 0 to {MOST_NGRAM}")
        if not (1 <= self.num_beams <= MOST_BEAMS and math.isfinite(self.length_penalty)):
            raise ValueError(f"num_beams is 1 to {MOST_BEAMS}, and length_penalty finite")
        if self.num_beams > 1 and (self.temperature > 0 or self.num_logprobs is not None):
            raise ValueError("beam search is for temperature 0, without log-probabilities")

    def __str__(self) -> str:
        min_p = f", min-p {self.min_p}" if self.min_p else ""
        top_k = f", top-k {self.top_k}" if self.top_k else ""
        beams = f"beam search with {self.num_beams} beams, length penalty {self.length_penalty}"
        how = beams if self.num_beams > 1 else "greedy"
        if self.temperature > 0:
            how = f"temperature {self.temperature}{top_k}, top-p {self.top_p}{min_p}, seed {self.seed}"
        parts = [how]
        if self.repetition_penalty != 1:
            # The scope that was the only one is not named: records of the same decoding stay the same.
            scope = "" if self.repetition_penalty_scope == "prompt" else _SCOPES[self.repetition_penalty_scope]
            parts.append(f"repetition penalty {self.repetition_penalty}{scope}")
        if self.no_repeat_ngram_size:
            parts.append(f"no repeated {self.no_repeat_ngram_size}-gram{_SCOPES[self.no_repeat_ngram_scope]}")
        return ", ".join([*parts, f"at most {self.max_new_tokens} tokens"])


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a reply.

    Args:
        prompt: token ids that end with the opened reply, at least one.
        number: with the seed, determines the sampled tokens; evaluation numbers its turns.
        own_turns: where in the prompt earlier replies of the same speaker are, (start, end) without end tokens.

    Raises:
        ValueError: the prompt is empty, `max_new_tokens` is 0, or `own_turns` are not parts of the prompt.
    """

    prompt: Sequence[int]
    decoding: Decoding = field(default_factory=Decoding)
    number: int = 0
    own_turns: Sequence[tuple[int, int]] = ()

    def __post_init__(self) -> None:
        if not len(self.prompt) or self.decoding.max_new_tokens < 1:
            raise ValueError("prompt and reply must have at least one token")
        before = -1
        for start, end in self.own_turns:
            # Behind a turn stands its end token, or the next one's tag.
            if not before < start <= end <= len(self.prompt):
                raise ValueError("own_turns are parts of the prompt, in their order, and don't touch each other")
            before = end

    @property
    def stops(self) -> tuple[int, ...]:
        """The stop tokens; the engine sets its own if the request has none."""
        return self.decoding.stops or ()

    def within(self, scope: Scope) -> list[Sequence[int]]:
        """Return the parts of the prompt that a scope covers."""
        if scope == "prompt":
            return [self.prompt]
        return [self.prompt[start:end] for start, end in self.own_turns] if scope == "own" else []

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt and of the longest reply."""
        return len(self.prompt) + self.decoding.max_new_tokens


@dataclass(frozen=True, slots=True)
class Joining:
    """A request that joins the running batch.

    Args:
        adapter: the name of its adapter; None: the base alone.
    """

    request: Request
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """A generated token.

    Args:
        logprob: its log-probability by the model, before temperature and penalty; None if it was not asked for.
        top: the most probable tokens with theirs.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True, eq=False)
class Writing:
    """A reply that is being generated.

    Args:
        said: its tokens so far.
        is_done: the reply is finished.
        num_cached: tokens of the prompt that did not have to be computed.
    """

    joining: Joining
    said: list[Said]
    is_done: bool = False
    num_cached: int = 0

    @property
    def request(self) -> Request:
        return self.joining.request
