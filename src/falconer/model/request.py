"""What a model is asked for, and the tokens that it says.

Without torch, so that a process without a model can use these records, too: a server's HTTP processes do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

# How many of the most probable tokens may be asked for; OpenAI's interface allows as many.
MOST_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class Decoding:
    """How tokens are chosen, and the maximum length of a reply.

    `temperature` 0 is greedy decoding; `top_p`, `top_k` and `seed` are only used above 0. `top_k` 0 keeps all tokens.

    Args:
        stops: tokens at which a reply stops; none: it gets `max_new_tokens` in any case. None: those of the engine's
            encoder (`cut.stop_tokens`).
        num_logprobs: for the running batch: return each token's log-probability, and those of so many of the most
            probable tokens, at most `MOST_LOGPROBS`; None: none of them.

    Raises:
        ValueError: a number is out of its range.
    """

    max_new_tokens: int = 32
    temperature: float = 0.0
    top_p: float = 0.9
    repetition_penalty: float = 1.0
    seed: int = 17
    top_k: int = 0
    stops: tuple[int, ...] | None = None
    num_logprobs: int | None = None

    def __post_init__(self) -> None:
        # NaN is on no side of a border.
        if not (self.temperature >= 0 and self.top_p >= 0 and self.repetition_penalty > 0 and self.top_k >= 0):
            raise ValueError("temperature, top_p and top_k are at least 0, and the repetition penalty is above it")
        if self.num_logprobs is not None and not 0 <= self.num_logprobs <= MOST_LOGPROBS:
            raise ValueError(f"num_logprobs is 0 to {MOST_LOGPROBS}, or None")

    def __str__(self) -> str:
        top_k = f", top-k {self.top_k}" if self.top_k else ""
        how = (
            "greedy"
            if self.temperature == 0
            else f"temperature {self.temperature}{top_k}, top-p {self.top_p}, seed {self.seed}"
        )
        penalty = f", repetition penalty {self.repetition_penalty}" if self.repetition_penalty != 1 else ""
        return f"{how}{penalty}, at most {self.max_new_tokens} tokens"


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a reply.

    Args:
        prompt: token ids that end with the opened reply, at least one.
        number: with the seed, determines the sampled tokens; evaluation numbers its turns.

    Raises:
        ValueError: the prompt is empty, or `max_new_tokens` is 0.
    """

    prompt: Sequence[int]
    decoding: Decoding = field(default_factory=Decoding)
    number: int = 0

    def __post_init__(self) -> None:
        if not len(self.prompt) or self.decoding.max_new_tokens < 1:
            raise ValueError("prompt and reply must have at least one token")

    @property
    def stops(self) -> tuple[int, ...]:
        """The stop tokens; the engine sets its own if the request has none."""
        return self.decoding.stops or ()

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
