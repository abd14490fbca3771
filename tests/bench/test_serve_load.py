"""Do streams have their conversations as users do, each with its own model, and is everything they got returned?"""

import asyncio
import json
import multiprocessing
from multiprocessing.connection import Connection

import pytest

from falconer.bench.serve_load import Done, Load, Talk, run_load, talk_number
from falconer.errors import FalconerError

TALKS = (
    Talk(("I like dogs.", "I am tall."), ("Hello!", "How are you?")),
    Talk(("I have a cat.",), ("Hi.", "What do you do?")),
)


def echo_server(pipe: Connection, fails: bool) -> None:
    """Answer each chat request, until this process is ended, with the number of messages and the last one."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
                body = json.loads(await reader.readexactly(int(length.split(b":")[1])))
                text = "|".join([body["model"], *(message["content"] for message in body["messages"])])
                sent = json.dumps({"choices": [{"message": {"content": f"[{text}]"}, "finish_reason": "stop"}]})
                status = "503 Stopping" if fails else "200 OK"
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(sent)}\r\n\r\n{sent}".encode())
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


def loaded(num_processes: int, fails: bool = False, **options: object) -> list[Done]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=echo_server, args=(theirs, fails), daemon=True)
    server.start()
    try:
        given = {"spread_s": 0.0, "seconds": 60.0, "options": {}, "most_talks": 1} | options
        load = Load("127.0.0.1", ours.recv(), ("one", "two"), TALKS, **given)
        return run_load(load, num_processes)
    finally:
        server.kill()
        server.join()


def test_each_stream_keeps_its_replies_and_has_its_own_model() -> None:
    found = loaded(2, num_streams=3)
    assert len(found) == 6 and not any(done.answer.problem for done in found)
    said = {(done.stream, done.turn): done.answer.text for done in found}
    assert said[0, 0] == "[one|I like dogs.\nI am tall.|Hello!]"
    assert said[0, 1] == f"[one|I like dogs.\nI am tall.|Hello!|{said[0, 0]}|How are you?]"
    assert said[1, 1] == f"[two|I have a cat.|Hi.|{said[1, 0]}|What do you do?]"
    # Both conversations are used, so the sentences come in another order.
    assert said[2, 0] == "[one|I am tall.\nI like dogs.|Hello!]"
    assert [done.talk for done in found if done.turn == 0] == [done.stream for done in found if done.turn == 0]
    assert [done.answer.sent_s for done in found] == sorted(done.answer.sent_s for done in found)


def test_streams_begin_no_request_after_their_time() -> None:
    found = loaded(1, num_streams=1, seconds=1.0, most_talks=None)
    # On a busy machine a request may begin a little after it was decided on.
    assert found[-1].answer.sent_s - found[0].answer.sent_s < 2
    assert len(found) > 1 and [done.talk for done in found] == [number // 2 for number in range(len(found))]


def test_a_refused_request_ends_its_conversation_and_is_returned() -> None:
    found = loaded(1, fails=True, num_streams=2, most_talks=2)
    assert [done.turn for done in found] == [0] * 4 and all(done.answer.status == 503 for done in found)


def test_a_client_process_that_fails_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    load = Load("127.0.0.1", 1, (), TALKS, 1, spread_s=0.0, seconds=1.0, options={})
    with pytest.raises(FalconerError, match="client process"):
        run_load(load, 1)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_personas_are_never_the_same_twice() -> None:
    assert talk_number(TALKS, 0) == TALKS[0] and talk_number(TALKS, 1) == TALKS[1]
    assert talk_number(TALKS, 2) == Talk(("I am tall.", "I like dogs."), TALKS[0].turns)
    assert talk_number(TALKS, 4) == TALKS[0]
