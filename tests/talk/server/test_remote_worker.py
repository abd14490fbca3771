"""A worker in another process: its replies, refusals and figures are those of the worker itself."""

import asyncio
import socket
from contextlib import asynccontextmanager

import pytest

from falconer.errors import FalconerError
from falconer.model.engine import Decoding, Request
from falconer.talk.server.relay import Relay
from falconer.talk.server.remote_worker import RemoteWorker
from falconer.talk.server.worker import BrokenError, Figures, QueueFullError, StoppingError, Worker
from served import Parrot

SAYS = list(range(100, 400))


@asynccontextmanager
async def remote(parrot, max_queued=100, number=1):
    """Have a worker, and `number` remote ones upon it."""
    worker = Worker(parrot, max_queued=max_queued)
    await worker.start()
    remotes, running = [], []
    for _ in range(number):
        ours, theirs = socket.socketpair()
        relay = Relay(worker, *await asyncio.open_unix_connection(sock=ours))
        running.append(asyncio.create_task(relay.run()))
        one = RemoteWorker(theirs, num_slots=parrot.num_slots, max_queued=max_queued)
        await one.start()
        await asyncio.wait_for(relay.is_ready.wait(), 5)
        remotes.append((one, relay))
    try:
        yield worker, *remotes
    finally:
        parrot.delay_s = 0
        await asyncio.wait_for(worker.close(0), 10)
        for one, _ in remotes:
            one._writer.close()
        await asyncio.wait_for(asyncio.gather(*running, *(one._reading for one, _ in remotes)), 5)


async def tokens_of(stream):
    return [said async for some in stream for said in some]


def long_of(size, **given):
    return Request([1] * size, Decoding(size, stops=(), **given))


async def until(holds):
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


def test_each_request_gets_its_own_reply_whichever_process_asks():
    async def talk():
        async with remote(Parrot(SAYS), number=2) as (worker, *remotes):
            streams = [await one.submit(long_of(size), None) for size in range(1, 30) for one, _ in remotes]
            found = await asyncio.gather(*map(tokens_of, streams))
            for index, (stream, said) in enumerate(zip(streams, found, strict=True)):
                size = 1 + index // 2
                assert [one.token for one in said] == SAYS[:size] and stream.num_cached == size // 2
            for one, _ in remotes:
                await one.refresh()
                assert one.figures == worker.figures and one.figures.num_steps > 0
            assert not any(one._open or one._number_of or one._decisions for one, _ in remotes)
            assert not any(relay._streams or relay._with_news for _, relay in remotes)

    asyncio.run(talk())


def test_log_probabilities_arrive():
    async def talk():
        async with remote(Parrot(SAYS)) as (_, (one, _)):
            return await tokens_of(await one.submit(long_of(3, num_logprobs=2), "adapter0"))

    first, *_ = asyncio.run(talk())
    assert (first.token, first.logprob, first.top) == (100, -0.5, ((100, -0.5), (101, -1.5)))


def test_a_full_queue_is_that_of_all_processes():
    async def talk():
        async with remote(Parrot(SAYS, num_slots=1, delay_s=0.02), max_queued=1, number=2) as (_, (one, _), (other, _)):
            streams = [await one.submit(long_of(20), None), await other.submit(long_of(20), None)]
            for refused in (one, other):
                with pytest.raises(QueueFullError):
                    await refused.submit(long_of(20), None)
            streams[0].cancel()
            await until(lambda: len(one._open) == 0)
            late = await one.submit(long_of(4), None)
            assert len(await tokens_of(streams[1])) == 20 and len(await tokens_of(late)) == 4

    asyncio.run(talk())


def test_a_cancelled_reply_frees_its_slot():
    async def talk():
        parrot = Parrot(SAYS, delay_s=0.02)
        async with remote(parrot) as (_, (one, relay)):
            stream = await one.submit(long_of(300), None)
            await anext(aiter(stream))
            stream.cancel()
            stream.cancel()
            await until(lambda: parrot.num_running == 0)
            assert [said async for said in stream] == [] and not relay._streams

    asyncio.run(talk())


def test_who_goes_away_while_it_is_asked_for_leaves_nothing_behind():
    async def talk():
        parrot = Parrot(SAYS, delay_s=0.01)
        async with remote(parrot) as (_, (one, relay)):
            asking = asyncio.create_task(one.submit(long_of(300), None))
            await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await one.refresh()
            await until(lambda: parrot.num_running == 0 and not relay._streams)
            assert not one._open and not one._decisions

    asyncio.run(talk())


def test_replies_of_a_process_that_hangs_up_end():
    async def talk():
        parrot = Parrot(SAYS, delay_s=0.02)
        async with remote(parrot) as (_, (one, relay)):
            for _ in range(3):
                await one.submit(long_of(300), None)
            await until(lambda: parrot.num_running == 3)
            one._writer.close()
            await until(lambda: parrot.num_running == 0 and not relay._streams)

    asyncio.run(talk())


def test_errors_and_the_end_of_the_engine_arrive():
    async def talk():
        parrot = Parrot(SAYS, delay_s=0.02)
        async with remote(parrot) as (_, (one, relay)):
            stream = await one.submit(long_of(300), None)
            await until(lambda: parrot.num_running == 1)
            parrot.fails = FalconerError("Memory is full.", "Use fewer slots.")
            with pytest.raises(FalconerError, match="Memory is full. Use fewer slots."):
                await tokens_of(stream)
            parrot.fails = None
            assert len(await tokens_of(await one.submit(long_of(3), None))) == 3
            stream = await one.submit(long_of(300), None)
            stopped = []
            one.on_stop = lambda: stopped.append(True)
            relay.stop()
            await until(lambda: stopped)
            relay._writer.close()
            with pytest.raises(BrokenError):
                await tokens_of(stream)
            with pytest.raises(BrokenError):
                await one.submit(long_of(3), None)
            await one.refresh()
            assert one.figures == Figures(is_broken=True)

    asyncio.run(talk())


def test_a_worker_that_stops_ends_replies_and_refuses_further_ones():
    async def talk():
        parrot = Parrot(SAYS, delay_s=0.02)
        async with remote(parrot) as (worker, (one, relay)):
            stream = await one.submit(long_of(300), None)
            await worker.close(0.1)
            with pytest.raises(StoppingError):
                await tokens_of(stream)
            with pytest.raises(StoppingError):
                await one.submit(long_of(3), None)
            closing = asyncio.create_task(one.close(1))
            await asyncio.sleep(0.05)
            assert not closing.done(), "other processes may have replies"
            relay.end()
            await asyncio.wait_for(closing, 5)
            await one.refresh()
            assert one.figures.is_broken

    asyncio.run(talk())
