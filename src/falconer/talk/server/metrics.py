"""The figures of a server for Prometheus: requests, tokens, queue, slots, and times."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from falconer.talk.server.bodies import Usage
from falconer.talk.server.reading import Reading
from falconer.talk.server.worker import Worker

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_SECONDS_A_TOKEN = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    """The figures of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
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

    def watch(self, worker: Worker) -> None:
        """Add the figures of the running batch, which are asked for whenever the figures are read."""
        for name, meaning, value in (
            ("falconer_slots", "Replies that are generated at the same time, at most.", lambda: worker.num_slots),
            ("falconer_running", "Replies that are being generated.", lambda: worker.num_running),
            ("falconer_queued", "Requests that wait for a slot.", lambda: worker.num_queued),
            ("falconer_steps", "Steps of the running batch since the start.", lambda: worker.counts.num_steps),
        ):
            Gauge(name, meaning, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """Return all figures in Prometheus' format."""
        return generate_latest(self.registry)
