"""The application of `falconer serve`, made of plain values, so that any process can have it."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from falconer.data.encode import Encoder
from falconer.talk.personas import sample_personas
from falconer.talk.server.app import make_app
from falconer.talk.server.asked import DEFAULT, shared_fields
from falconer.talk.server.fields import Number
from falconer.talk.server.gate import Access, Gate
from falconer.talk.server.limits import Limits
from falconer.talk.server.metrics import Metrics
from falconer.talk.server.page import PageModel, page_routes
from falconer.talk.server.service import ServedModel, Service
from falconer.talk.server.trouble import log_request
from falconer.talk.text import Writer
from falconer.talk.votes import VoteFile

if TYPE_CHECKING:
    from fastapi import APIRouter

    from falconer.talk.server.worker import AnyWorker

# The page's sliders, and its examples of personas.
SLIDERS = frozenset((
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "no_repeat_ngram_size", "max_tokens", "seed",
))  # fmt: skip
NUM_PERSONAS, SEED = 50, 17


@dataclass(frozen=True, slots=True)
class ServedApp:
    """What the application needs besides the engine.

    Args:
        encoders: of each adapter and of the base, by the name of the model.
        adapters: the engine's names of the adapters, by name.
        base_name: by which requests ask for the base alone.
        created: when the server was started, in seconds since 1970.
        votes: the file of the page's votes.
        is_logging: requests are printed.
        metrics: see `Metrics`.
    """

    encoders: Mapping[str, Encoder]
    adapters: Mapping[str, str]
    base_name: str
    access: Access
    limits: Limits
    created: int
    votes: Path
    is_logging: bool = False
    metrics: Path | None = None

    def make(self, worker: "AnyWorker", is_stopping: Callable[[], bool]) -> Gate:
        """Return the ASGI application.

        Args:
            is_stopping: see `make_app`.
        """
        service = self._service(worker)
        return make_app(
            service, self.access, routers=[self._page(service)], is_stopping=is_stopping,
            on_answer=log_request if self.is_logging else None,
        )  # fmt: skip

    def _service(self, worker: "AnyWorker") -> Service:
        models = {
            name: ServedModel(name, self.adapters.get(name), Writer(encoder)) for name, encoder in self.encoders.items()
        }
        default = replace(DEFAULT, max_new_tokens=min(DEFAULT.max_new_tokens, self.limits.max_tokens))
        # More would never be accepted.
        limits = replace(self.limits, max_choices=min(self.limits.max_choices, worker.num_slots + worker.max_queued))
        metrics, texts = Metrics(self.metrics), ThreadPoolExecutor(1, "texts")
        return Service(worker, models, default, limits, metrics, self.created, texts)

    def _page(self, service: Service) -> "APIRouter":
        models = [PageModel(name, name == self.base_name) for name in service.names]
        fields = shared_fields(service.names, service.limits, service.default)
        decoding = [field for field in fields if isinstance(field, Number) and field.name in SLIDERS]
        personas = sample_personas(NUM_PERSONAS, SEED)
        return page_routes(models, decoding, personas, VoteFile(self.votes), service.limits, self.access.guard)
