"""The figures of a server for Prometheus: requests, tokens, queue, slots, and times."""

from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

from falconer.talk.server.bodies import Usage
from falconer.talk.server.reading import Reading
from falconer.talk.server.worker import AnyWorker

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_SECONDS_A_TOKEN = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    """The figures of one application, in a registry of its own.

    Args:
        folder: where all processes of a server keep their figures, so that each can tell those of all; None: there is
            but one process. `runtime.share_metrics` must have been called before this file was imported.
    """

    def __init__(self, folder: Path | None = None) -> None:
        # When a series was begun tells nothing that the figures don't.
        disable_created_metrics()
        self.registry = own = CollectorRegistry()
        self._folder = folder
        self._batch = CollectorRegistry()
        self.requests = Counter(
            "falconer_requests", "Requests that were answered; 499: the client went away.",
            ("route", "model", "status"), registry=own,
        )  # fmt: skip
        of_model = ("model",)
        self.prompt_tokens = Counter("falconer_prompt_tokens", "Tokens of prompts.", of_model, registry=own)
        self.cached_tokens = Counter(
            "falconer_cached_prompt_tokens", "Tokens of prompts that were in the cache.", of_model, registry=own
        )
        self.reply_tokens = Counter("falconer_completion_tokens", "Tokens of replies.", of_model, registry=own)
        self.dropped_turns = Counter("falconer_dropped_turns", "Turns that did not fit.", of_model, registry=own)
        self.first_token_s = Histogram(
            "falconer_time_to_first_token_seconds", "From a request's arrival to the first token of a reply.", of_model,
            buckets=_SECONDS, registry=own,
        )  # fmt: skip
        self.token_s = Histogram(
            "falconer_time_per_token_seconds", "Between two tokens, the mean of each reply.", of_model,
            buckets=_SECONDS_A_TOKEN, registry=own,
        )  # fmt: skip
        self.request_s = Histogram(
            "falconer_request_seconds", "From a request's arrival to the end of its answer.", ("route",),
            buckets=_SECONDS, registry=own,
        )  # fmt: skip

    def count(self, model: str, usage: Usage, num_dropped: int) -> None:
        """Count the tokens of a request."""
        self.prompt_tokens.labels(model).inc(usage.num_prompt)
        self.cached_tokens.labels(model).inc(usage.num_cached)
        self.reply_tokens.labels(model).inc(usage.num_replies)
        self.dropped_turns.labels(model).inc(num_dropped)

    def time(self, model: str, arrived: float, reading: Reading) -> None:
        """Observe the times of a reply; none if it was given up before its first token.

        Args:
            arrived: when the request came, by `time.perf_counter`.
        """
        if reading.started is None:
            return
        self.first_token_s.labels(model).observe(reading.started - arrived)
        if reading.ended is not None and reading.num_tokens > 1:
            self.token_s.labels(model).observe((reading.ended - reading.started) / (reading.num_tokens - 1))

    def watch(self, worker: AnyWorker) -> None:
        """Add the figures of the running batch, as they stand whenever the figures are read."""
        self._batch.register(_Batch(worker))

    def text(self) -> bytes:
        """Return all figures in Prometheus' format."""
        registry = self.registry
        if self._folder is not None:
            registry = CollectorRegistry()
            MultiProcessCollector(registry, str(self._folder))
        return generate_latest(self._batch) + generate_latest(registry)


class _Batch:
    """The figures of the running batch."""

    def __init__(self, worker: AnyWorker) -> None:
        self._worker = worker

    def collect(self) -> Iterator[GaugeMetricFamily]:
        figures = self._worker.figures
        for name, meaning, value in (
            ("falconer_slots", "Replies that are generated at the same time, at most.", self._worker.num_slots),
            ("falconer_running", "Replies that are being generated.", figures.num_running),
            ("falconer_queued", "Requests that wait for a slot.", figures.num_queued),
            ("falconer_steps", "Steps of the running batch since the start.", figures.num_steps),
        ):
            yield GaugeMetricFamily(name, meaning, value)
