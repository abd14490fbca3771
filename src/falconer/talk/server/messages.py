"""What the engine's process and the processes that speak HTTP say to each other: JSON, behind its length in bytes.

An HTTP process says (its first word, then its values):

    ready
    ask      number of the request, adapter, prompt, number for sampling, decoding, own turns
    cancel   number of the request
    look

The engine's process says:

    accepted number of the request
    refused  number of the request, why (a word of `WHY`)
    news     of each of some requests: its number, cached tokens, new tokens, their log-probabilities, its end
    figures  those of the worker
    stop     refuse new requests
    end      after the last answer
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from falconer.errors import FalconerError
from falconer.model.request import Decoding, Joining, Request, Said
from falconer.talk.server.worker import BrokenError, QueueFullError, StoppingError

# Why a request is refused, or ended.
WHY = MappingProxyType({"full": QueueFullError, "stopping": StoppingError, "broken": BrokenError})
_FINISHED = "finished"
# Bytes of a message's length.
_SIZE = 4


def frame(word: str, *values: Any) -> bytes:
    """Return a message as it is sent."""
    content = json.dumps([word, *values], separators=(",", ":")).encode("ascii")
    return len(content).to_bytes(_SIZE, "big") + content


async def messages(reader: asyncio.StreamReader) -> AsyncIterator[list[Any]]:
    """Yield each message, a word and its values, until the other side hangs up."""
    try:
        while True:
            size = int.from_bytes(await reader.readexactly(_SIZE), "big")
            yield json.loads(await reader.readexactly(size))
    except (asyncio.IncompleteReadError, ConnectionError):
        return


def asked(number: int, joining: Joining) -> bytes:
    """Return the message that asks for a reply."""
    request = joining.request
    asked_for = (list(request.prompt), request.number, asdict(request.decoding), list(request.own_turns))
    return frame("ask", number, joining.adapter, *asked_for)


def joining_of(
    adapter: str | None, prompt: list[int], number: int, decoding: dict[str, Any], own_turns: list[list[int]]
) -> Joining:
    """Return the request that a message asks for."""
    stops = decoding.pop("stops")
    chosen = Decoding(**decoding, stops=None if stops is None else tuple(stops))
    return Joining(Request(prompt, chosen, number, tuple((start, end) for start, end in own_turns)), adapter)


def told(number: int, num_cached: int, said: Sequence[Said], end: str | None) -> list[Any]:
    """Return a request's part of the news.

    Args:
        end: from `end_of`; None: the reply goes on.
    """
    # Most requests ask for no log-probabilities.
    details = [(one.logprob, one.top) for one in said] if said and said[0].logprob is not None else None
    return [number, num_cached, [one.token for one in said], details, end]


def said_of(tokens: Sequence[int], details: Sequence[Any] | None) -> list[Said]:
    """Return the tokens of a request's part of the news."""
    if details is None:
        return [Said(token) for token in tokens]
    return [
        Said(token, logprob, tuple((other, value) for other, value in top))
        for token, (logprob, top) in zip(tokens, details, strict=True)
    ]


def end_of(error: Exception | None) -> Any:
    """Return how a reply ended, as it is sent."""
    if error is None:
        return _FINISHED
    if isinstance(error, FalconerError):
        return [error.message, error.hint]
    return next(word for word, kind in WHY.items() if isinstance(error, kind))


def error_of(end: Any) -> Exception | None:
    """Return the error with which a reply ended; None: it is finished."""
    if end == _FINISHED:
        return None
    return FalconerError(*end) if isinstance(end, list) else WHY[end]()
