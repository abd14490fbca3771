"""What all requests of a server share: the models by name, the worker, limits, default decoding, and figures."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from falconer.model.generate.cut import stop_tokens
from falconer.model.request import Decoding
from falconer.talk.server.limits import Limits
from falconer.talk.server.metrics import Metrics
from falconer.talk.server.worker import AnyWorker
from falconer.talk.text import Writer


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The base, or an adapter on it, under the name by which requests ask for it.

    Args:
        adapter: the engine's name of the adapter; None: the base alone.
        writer: with the prompt format that it was trained with.
        stops: the tokens that end a reply; among them may be the line break.
    """

    name: str
    adapter: str | None
    writer: Writer
    stops: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stops", tuple(stop_tokens(self.writer.encoder)))

    @property
    def context(self) -> int:
        """The most tokens of a prompt and its reply."""
        return self.writer.encoder.max_tokens

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end a text."""
        return (self.writer.encoder.end_id, *self.writer.encoder.stop_ids)


@dataclass(frozen=True, slots=True)
class Service:
    """What the routes of a server use.

    Args:
        models: by name, the one that most people want first.
        default: the decoding of a request that names nothing.
        created: when the server was started, in seconds since 1970.
        texts: the thread that turns texts into tokens, which may take long and must not delay other replies.
    """

    worker: AnyWorker
    models: Mapping[str, ServedModel]
    default: Decoding
    limits: Limits
    metrics: Metrics
    created: int
    texts: ThreadPoolExecutor

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.models)
