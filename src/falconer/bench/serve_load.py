"""Load for the server: streams of conversations in client processes, and what became of each request.

A stream is one user: it has one conversation after another, sends a turn, waits for the whole reply, which it keeps,
and sends the next turn.
"""

import asyncio
import gc
import itertools
import math
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

from falconer.bench.serve_client import Answer, Client
from falconer.errors import FalconerError

CHAT = "/v1/chat/completions"
# What stands for a reply without text in the messages that follow, as in a chat.
EMPTY = "..."
# Seconds between the last client process that is ready and the first request; also what each gets to end by itself.
START_S = 0.2


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation to have: the persona's sentences, and what the user says in each turn.

    Args:
        replies: the gold replies between the turns, for those who need a history without a model.
    """

    persona: tuple[str, ...]
    turns: tuple[str, ...]
    replies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Load:
    """What all streams do.

    Args:
        models: stream number s talks to model number s, starting again after the last one.
        talks: conversations; the streams take them in turn. Once all are used, the sentences of the personas are put
            into another order, so that no prompt is asked twice.
        first: number of the conversation that the first stream starts with.
        spread_s: the streams begin at even intervals within this time, so that their turns do not coincide.
        seconds: for how long they begin new requests, from the first one on.
        most_talks: conversations of a stream; None: as many as there is time for.
        options: further fields of each request, such as max_tokens.
        more_ports: of further servers like the first one, which the streams also take in turn.
    """

    host: str
    port: int
    models: tuple[str, ...]
    talks: tuple[Talk, ...]
    num_streams: int
    spread_s: float
    seconds: float
    options: dict[str, Any]
    first: int = 0
    most_talks: int | None = None
    key: str = ""
    more_ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """One request of a stream, and its answer.

    Args:
        talk, turn: number of the conversation, and of the turn in it.
    """

    model: str
    stream: int
    talk: int
    turn: int
    answer: Answer


def messages_of(persona: Sequence[str]) -> list[dict[str, str]]:
    """Return the messages that a conversation starts with: its persona, one sentence a line."""
    return [{"role": "system", "content": "\n".join(persona)}]


def talk_number(talks: Sequence[Talk], number: int) -> Talk:
    """Return the conversation of this number; beyond the last one, with the sentences in another order."""
    round, place = divmod(number, len(talks))
    talk = talks[place]
    order = round % math.factorial(len(talk.persona))
    return replace(talk, persona=next(itertools.islice(itertools.permutations(talk.persona), order, None)))


def run_load(load: Load, num_processes: int) -> list[Done]:
    """Put a load on a server from several processes, and return all its requests in the order in which they were sent.

    Raises:
        FalconerError: a client's process failed.
    """
    num_processes = min(num_processes, load.num_streams)
    # A fresh interpreter: a copy of this process would share the device's libraries, which allow no copies.
    context = multiprocessing.get_context("spawn")
    clients: list[tuple[Connection, Any]] = []
    for number in range(num_processes):
        ours, theirs = context.Pipe()
        streams = range(number, load.num_streams, num_processes)
        process = context.Process(target=_client_process, args=(theirs, load, streams), daemon=True)
        process.start()
        theirs.close()
        clients.append((ours, process))
    try:
        for pipe, _ in clients:
            pipe.recv()
        start_s = time.monotonic() + START_S
        for pipe, _ in clients:
            pipe.send(start_s)
        found = [done for pipe, _ in clients for done in pipe.recv()]
    except EOFError as error:
        raise FalconerError("A client process of the benchmark failed; its error is above.", "Run it again.") from error
    finally:
        for pipe, process in clients:
            pipe.close()
            process.join(START_S)
            process.kill()
    return sorted(found, key=lambda done: done.answer.sent_s)


def _client_process(pipe: Connection, load: Load, streams: Sequence[int]) -> None:
    """Do these streams' part of the load: say that this process is ready, read when to start, return the requests."""
    # A pause of the client would be taken for one of the server.
    gc.freeze()
    gc.disable()
    pipe.send("ready")
    start_s = pipe.recv()
    pipe.send(asyncio.run(_streams(load, streams, start_s)))


async def _streams(load: Load, streams: Sequence[int], start_s: float) -> list[Done]:
    found: list[Done] = []
    await asyncio.gather(*(_stream(load, stream, start_s, found) for stream in streams))
    return found


async def _stream(load: Load, stream: int, start_s: float, found: list[Done]) -> None:
    ports = (load.port, *load.more_ports)
    client = Client(load.host, ports[stream % len(ports)], load.key)
    await asyncio.sleep(start_s + load.spread_s * stream / load.num_streams - time.monotonic())
    try:
        for number in _numbers(load, stream):
            talk = talk_number(load.talks, number)
            messages = messages_of(talk.persona)
            for turn, text in enumerate(talk.turns):
                if time.monotonic() > start_s + load.seconds:
                    return
                messages.append({"role": "user", "content": text})
                body = {"model": load.models[stream % len(load.models)], "messages": messages, **load.options}
                answer = await client.ask(CHAT, body)
                found.append(Done(body["model"], stream, number, turn, answer))
                if answer.problem:
                    # Refused or lost: a server that refuses at once must not be asked a thousand times a second.
                    client.close()
                    await asyncio.sleep(0.1)
                    break
                messages.append({"role": "assistant", "content": answer.text or EMPTY})
    finally:
        client.close()


def _numbers(load: Load, stream: int) -> Iterator[int]:
    """Yield the numbers of the conversations of a stream."""
    numbers = itertools.count(load.first + stream, load.num_streams)
    return itertools.islice(numbers, load.most_talks)
