"""The worker: every stream gets its own reply, whatever joins, leaves, fails or stops beside it."""

import asyncio
import time
from contextlib import asynccontextmanager, suppress

import pytest
import torch

from decoded import asked, forward_of, model_of
from falcon_tiny import VOCAB
from falconer.errors import FalconerError
from falconer.model.generate.fast_running import FastRunning
from falconer.model.request import Decoding, Request, Said, Writing
from falconer.talk.server.worker import MOST_STEPS_WAITED, BrokenError, QueueFullError, StoppingError, Worker

TALK = [(37 * index + 5) % VOCAB for index in range(60)]
LONG = Decoding(max_new_tokens=30, stops=())

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model():
    return model_of()


def running_of(model, num_slots=3):
    unknown = torch.tensor([], dtype=torch.int64)
    return FastRunning(forward_of(model), unknown, num_slots=num_slots, num_rows=8, row_tokens=100)


@asynccontextmanager
async def working(running, max_queued=100):
    worker = Worker(running, max_queued=max_queued)
    await worker.start()
    try:
        yield worker
    finally:
        await asyncio.wait_for(worker.close(0), 10)


async def tokens_of(stream):
    return [said.token async for some in stream for said in some]


def test_many_streams_wait_for_slots_and_each_gets_its_own_reply(model):
    requests = [Request(TALK[: 5 + number], Decoding(3 + number % 7, stops=()), number) for number in range(20)]

    async def talk():
        async with working(running_of(model)) as worker:
            streams = [await worker.submit(request, None) for request in requests]
            found = await asyncio.gather(*map(tokens_of, streams))
            counts = worker.counts
            assert (counts.num_joined, counts.generated_tokens) == (20, sum(map(len, found)))
            assert counts.prompt_tokens == sum(len(one.prompt) for one in requests) and counts.cached_tokens > 0
            assert worker.figures.num_running == worker.figures.num_queued == 0
            return found

    assert asyncio.run(talk()) == [asked(model, [request])[0] for request in requests]


def test_a_slow_reader_gets_all_tokens_at_once(model):
    async def talk():
        async with working(running_of(model)) as worker:
            stream = await worker.submit(Request(TALK, LONG), None)
            while worker.counts.generated_tokens < 30:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            return [[said.token for said in some] async for some in stream]

    assert asyncio.run(talk()) == asked(model, [Request(TALK, LONG)])


def test_who_goes_away_gives_the_place_back_running_or_waiting(model):
    async def talk():
        async with working(running_of(model, num_slots=1), max_queued=2) as worker:
            first, second, third = [await worker.submit(Request(TALK[:size], LONG), None) for size in (9, 10, 11)]
            with pytest.raises(QueueFullError):
                await worker.submit(Request(TALK, LONG), None)
            await anext(first)
            first.cancel()
            second.cancel()
            first.cancel()
            assert await tokens_of(first) == await tokens_of(second) == []
            found = await tokens_of(third)
            assert worker.counts.num_joined == 2, "the second never joined"
            return found

    assert asyncio.run(talk()) == asked(model, [Request(TALK[:11], LONG)])[0]


def test_closing_finishes_what_was_accepted_and_refuses_the_rest(model):
    async def talk():
        worker = Worker(running_of(model, num_slots=1), max_queued=5)
        await worker.start()
        streams = [await worker.submit(Request(TALK[:size], LONG), None) for size in (9, 10)]
        closing = asyncio.create_task(worker.close(30))
        await asyncio.sleep(0)
        with pytest.raises(StoppingError):
            await worker.submit(Request(TALK, LONG), None)
        found = await asyncio.gather(*map(tokens_of, streams))
        await closing
        return found

    assert asyncio.run(talk()) == [asked(model, [Request(TALK[:size], LONG)])[0] for size in (9, 10)]


def test_after_the_time_that_is_left_to_them_replies_end_with_an_error(model):
    async def talk():
        worker = Worker(running_of(model), max_queued=5)
        await worker.start()
        stream = await worker.submit(Request(TALK, Decoding(40, stops=())), None)
        await worker.close(0)
        with pytest.raises(StoppingError):
            await tokens_of(stream)

    asyncio.run(talk())


class Failing:
    """A running batch some of whose calls fail."""

    def __init__(self, running, error, *, at_steps=()):
        self._running, self._error, self._at_steps = running, error, at_steps
        self.num_slots, self.num_steps = running.num_slots, 0

    @property
    def num_running(self):
        return self._running.num_running

    def join(self, asked):
        if any(len(joining.request.prompt) == 13 for joining in asked):
            raise self._error
        return self._running.join(asked)

    def step(self):
        self.num_steps += 1
        if self.num_steps in self._at_steps:
            raise self._error
        return self._running.step()

    def leave(self, writing):
        self._running.leave(writing)


def test_a_request_that_can_not_join_fails_alone(model):
    async def talk():
        running = Failing(running_of(model), FalconerError("too long"))
        async with working(running) as worker:
            streams = [await worker.submit(Request(TALK[:size], LONG), None) for size in (9, 13, 10)]
            found = await asyncio.gather(*map(tokens_of, streams), return_exceptions=True)
            assert isinstance(found[1], FalconerError) and str(found[1]) == "too long"
            return found[::2]

    assert asyncio.run(talk()) == [asked(model, [Request(TALK[:size], LONG)])[0] for size in (9, 10)]


@pytest.mark.parametrize(("at_steps", "num_left"), [((4,), 2), ((4, 9), 1), ((4, 5), 0)])
def test_where_memory_is_short_the_last_that_came_end_and_the_others_go_on(model, at_steps, num_left):
    """The second failure in a row ends two replies at once."""
    sizes = (9, 10, 11)

    async def talk():
        running = Failing(running_of(model), FalconerError("out of memory"), at_steps=at_steps)
        async with working(running) as worker:
            streams = [await worker.submit(Request(TALK[:size], LONG), None) for size in sizes]
            found = await asyncio.gather(*map(tokens_of, streams), return_exceptions=True)
            assert worker.figures.num_running == 0 and not worker.figures.is_broken
            return found, await tokens_of(await worker.submit(Request(TALK[:12], LONG), None))

    found, later = asyncio.run(talk())
    assert all(isinstance(one, FalconerError) and str(one) == "out of memory" for one in found[num_left:])
    alone = [asked(model, [Request(TALK[:size], LONG)])[0] for size in (*sizes[:num_left], 12)]
    assert [*found[:num_left], later] == alone


def test_after_memory_was_short_requests_wait_until_a_reply_has_ended(model):
    async def talk():
        running = Failing(running_of(model, num_slots=2), FalconerError("out of memory"), at_steps=(4,))
        async with working(running) as worker:
            streams = [await worker.submit(Request(TALK[:size], LONG), None) for size in (9, 10, 11)]
            found = await asyncio.gather(*map(tokens_of, streams), return_exceptions=True)
            return found, running.num_steps

    found, num_steps = asyncio.run(talk())
    assert isinstance(found[1], FalconerError)
    assert found[::2] == [asked(model, [Request(TALK[:size], LONG)])[0] for size in (9, 11)]
    assert num_steps == 1 + 2 * (LONG.max_new_tokens - 1), "one after the other, though there are two slots"


def test_an_unexpected_error_ends_every_stream_and_refuses_new_ones(model, caplog):
    async def talk():
        running = Failing(running_of(model, num_slots=1), RuntimeError("device-side assert"), at_steps=(3,))
        async with working(running) as worker:
            streams = [await worker.submit(Request(TALK[:size], LONG), None) for size in (9, 10)]
            found = await asyncio.gather(*map(tokens_of, streams), return_exceptions=True)
            assert all(isinstance(one, BrokenError) for one in found) and worker.figures.is_broken
            with suppress(BrokenError):
                await worker.submit(Request(TALK, LONG), None)
                pytest.fail("it was accepted")

    asyncio.run(talk())
    assert "device-side assert" in caplog.text


class Endless:
    """A running batch whose replies go on; its tokens are counted from 0."""

    num_slots = 300

    def __init__(self):
        self.writings, self.joined, self.unreported = [], [], []

    @property
    def num_running(self):
        return len(self.writings)

    def join(self, asked):
        self.joined.append(len(asked))
        new = [Writing(joining, [Said(0)]) for joining in asked]
        self.writings += new
        self.unreported += [(writing, writing.said[0]) for writing in new]
        return new

    def step(self):
        time.sleep(0.001)
        for writing in list(self.writings):
            writing.said.append(Said(len(writing.said)))
            self.unreported.append((writing, writing.said[-1]))
            if len(writing.said) == writing.request.decoding.max_new_tokens:
                self.leave(writing)
        found, self.unreported = self.unreported, []
        return found

    def leave(self, writing):
        writing.is_done = True
        if writing in self.writings:
            self.writings.remove(writing)


def test_while_many_replies_run_few_requests_wait_for_more_and_tokens_come_in_pieces():
    async def talk():
        running = Endless()
        async with working(running) as worker:
            many = [await worker.submit(Request([1], Decoding(400)), None) for _ in range(200)]
            firsts = await asyncio.gather(*map(anext, many))
            assert all(said[0].token == 0 for said in firsts), "a first token is delivered at once"
            before, joined = worker.counts.num_steps, len(running.joined)
            late = await worker.submit(Request([1], Decoding(3)), None)
            pieces = [[said.token for said in some] async for some in late]
            assert sum(pieces, []) == [0, 1, 2], "and so is a last one"
            assert sum(running.joined[joined:]) == 1
            assert worker.counts.num_steps - before > MOST_STEPS_WAITED
            sizes = [len(await anext(many[0])) for _ in range(3)]
            assert min(sizes[1:]) >= 2
            for stream in many:
                stream.cancel()
            while worker.figures.num_running:
                await asyncio.sleep(0.01)
            alone = await worker.submit(Request([1], Decoding(4)), None)
            assert sum(await asyncio.wait_for(anext_all(alone), 5), []) == [0, 1, 2, 3]

    asyncio.run(talk())


async def anext_all(stream):
    return [[said.token for said in some] async for some in stream]
