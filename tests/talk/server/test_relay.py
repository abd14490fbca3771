"""The engine's side of an HTTP process, message by message; whole replies are in test_remote_worker.py."""

import asyncio
import socket

from falconer.model.engine import Decoding, Joining, Request
from falconer.talk.server.messages import asked, frame, messages
from falconer.talk.server.relay import Relay
from falconer.talk.server.worker import Worker
from served import Parrot


async def until_end(num_replies, *sent):
    """Send messages to a relay, and return those that come back until the last reply's end."""
    worker = Worker(Parrot(list(range(100, 200)), num_slots=8), max_queued=0)  # type: ignore[arg-type]
    await worker.start()
    ours, theirs = socket.socketpair()
    relay = Relay(worker, *await asyncio.open_unix_connection(sock=ours))
    running = asyncio.create_task(relay.run())
    reader, writer = await asyncio.open_unix_connection(sock=theirs)
    got, ended = [], set()
    writer.write(b"".join(sent))
    async for message in messages(reader):
        got.append(message)
        if message[0] == "news":
            ended |= {part[0] for part in message[1] if part[-1] is not None}
        if len(ended) + sum(one[0] == "refused" for one in got) == num_replies:
            break
    writer.close()
    await asyncio.wait_for(running, 5)
    await worker.close(0)
    return got, relay


def test_tokens_of_a_step_are_sent_together_and_each_request_is_decided():
    many = [asked(number, Joining(Request([1, 2], Decoding(5, stops=())))) for number in range(9)]
    got, relay = asyncio.run(until_end(9, frame("ready"), *many))
    assert relay.is_ready.is_set()
    assert [message for message in got if message[0] != "news"] == [
        *(["accepted", number] for number in range(8)), ["refused", 8, "full"],
    ]  # fmt: skip
    news = [message[1] for message in got if message[0] == "news"]
    assert len(news) < 8 * 5, "not a message for each token"
    said = {number: [] for number in range(8)}
    for part in (part for parts in news for part in parts):
        assert part[3] is None and part[4] in (None, "finished")
        said[part[0]] += part[2]
    assert all(tokens == [100, 101, 102, 103, 104] for tokens in said.values())


def test_a_cancelled_request_is_not_heard_of_again():
    sent = [asked(number, Joining(Request([1], Decoding(50, stops=())))) for number in range(2)]
    got, relay = asyncio.run(until_end(1, *sent, frame("cancel", 0), frame("cancel", 7)))
    told = {part[0] for message in got if message[0] == "news" for part in message[1]}
    assert told == {1} and not relay._streams
