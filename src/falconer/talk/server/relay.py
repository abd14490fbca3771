"""The engine's side of an HTTP process: its requests are passed on to the worker, and their tokens are sent back."""

import asyncio
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

from falconer.model.request import Said
from falconer.talk.server.messages import WHY, end_of, frame, joining_of, messages, told
from falconer.talk.server.worker import Stream, Worker


@dataclass(slots=True, eq=False)
class _Relayed(Stream):
    """A reply whose tokens go to an HTTP process."""

    number: int = 0
    relay: "Relay | None" = None
    unsent: list[Said] | None = None
    how: Any = None

    def deliver(self, said: Sequence[Said]) -> None:
        self.unsent = [*(self.unsent or ()), *said]
        if self.relay:
            self.relay.has_news(self)

    def end(self, error: Exception | None) -> None:
        if not self.is_over:
            self.is_over, self.how = True, end_of(error)
            if self.relay:
                self.relay.has_news(self)


class Relay:
    """Passes messages on between one HTTP process and the worker, on the worker's event loop."""

    def __init__(self, worker: Worker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._worker, self._reader, self._writer = worker, reader, writer
        self.is_ready = asyncio.Event()
        self._streams: dict[int, _Relayed] = {}
        self._with_news: dict[_Relayed, None] = {}

    async def run(self) -> None:
        """Serve the process until it hangs up; its replies end with it."""
        async for word, *values in messages(self._reader):
            match word:
                case "ask":
                    self._ask(*values)
                case "cancel":
                    self._cancel(values[0])
                case "look":
                    self._writer.write(frame("figures", *astuple(self._worker.figures)))
                case "ready":
                    self.is_ready.set()
        for number in list(self._streams):
            self._cancel(number)
        self.hang_up()

    def hang_up(self) -> None:
        """End the process, whatever it does."""
        self._writer.close()

    def stop(self) -> None:
        """Let the process refuse new requests."""
        self._writer.write(frame("stop"))

    def end(self) -> None:
        """Let the process end, after its last answer."""
        self._writer.write(frame("end"))

    def has_news(self, stream: _Relayed) -> None:
        """Send a stream's news, together with those of others that arrive at the same time."""
        if not self._with_news:
            asyncio.get_running_loop().call_soon(self._send_news)
        self._with_news[stream] = None

    def _ask(self, number: int, *asked: Any) -> None:
        stream = _Relayed(joining_of(*asked), number=number, relay=self)
        try:
            self._worker.take(stream)
        except tuple(WHY.values()) as error:
            self._writer.write(frame("refused", number, end_of(error)))
            return
        self._streams[number] = stream
        self._writer.write(frame("accepted", number))

    def _cancel(self, number: int) -> None:
        stream = self._streams.pop(number, None)
        if stream is not None:
            stream.relay = None
            self._with_news.pop(stream, None)
            stream.cancel()

    def _send_news(self) -> None:
        found, self._with_news = self._with_news, {}
        parts = []
        for stream in found:
            parts.append(told(stream.number, stream.num_cached, stream.unsent or (), stream.how))
            stream.unsent = None
            if stream.how is not None:
                self._streams.pop(stream.number, None)
        if parts:
            self._writer.write(frame("news", parts))
