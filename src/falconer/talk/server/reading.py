"""One reply of an answer: from the tokens that the worker yields to text that no later token changes."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from falconer.model.request import Said
from falconer.talk.server.worker import Stream


class Text(Protocol):
    """The text of a reply that is being generated; see `talk.text.ReplyText`."""

    @property
    def is_over(self) -> bool: ...
    @property
    def ended(self) -> bool: ...
    def add(self, ids: Sequence[int]) -> str: ...
    def end(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a reply: its text, and the tokens since the part before it, if they were asked for."""

    text: str
    said: tuple[Said, ...] = ()


class Reading:
    """Reads one reply.

    Args:
        stops: the tokens that end the reply; they are no part of it.
        has_tokens: pieces have their tokens.

    Attributes:
        num_tokens: tokens that were generated so far.
        finish: why the reply ended, in OpenAI's words; "" until then.
        started: when the first token came, None before that.
    """

    def __init__(self, stream: Stream, text: Text, stops: Sequence[int], *, has_tokens: bool) -> None:
        self._stream, self._text, self._stops, self._has_tokens = stream, text, frozenset(stops), has_tokens
        self.num_tokens = 0
        self.finish = ""
        self.started: float | None = None
        self.ended: float | None = None

    @property
    def num_cached(self) -> int:
        """Tokens of the prompt that were in the cache."""
        return self._stream.num_cached

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield the reply in pieces; the last one may be without text.

        Raises:
            FalconerError: the engine failed.
        """
        waiting: list[Said] = []
        text, last = self._text, -1
        async for said in self._stream:
            if not said:
                continue
            self.started = self.started or perf_counter()
            self.num_tokens += len(said)
            last = said[-1].token
            piece = self._each(said, waiting) if self._has_tokens else text.add([one.token for one in said])
            if text.is_over:
                break
            if piece:
                yield Piece(piece, tuple(waiting))
                waiting.clear()
        else:
            piece = ""
        self._stream.cancel()
        self.ended = perf_counter()
        self.finish = "stop" if text.is_over or text.ended or last in self._stops else "length"
        yield Piece(piece + text.end(), tuple(waiting))

    def _each(self, said: Sequence[Said], waiting: list[Said]) -> str:
        """Add tokens one by one, to know at which the reply ends, and return the text; the tokens go into `waiting`."""
        piece = ""
        for one in said:
            piece += self._text.add([one.token])
            if one.token not in self._stops:
                waiting.append(one)
            if self._text.is_over:
                break
        return piece

    def cancel(self) -> None:
        """Give the reply's place to others."""
        self._stream.cancel()
