"""A server of OpenAI's interface and falconer's page whose replies a test writes, for what a real model does not do on
demand: errors, streams that break, texts that attack.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from falconer.talk.server.errors import ApiError
from falconer.talk.server.fields import Number
from falconer.talk.server.limits import Limits
from falconer.talk.server.page import PageModel, page_routes
from falconer.talk.votes import VoteFile

PERSONAS = (("I have two dogs.", "I work as a teacher."), ("I sing.", "I live in Bergen."), ("I like to ski.",))
DECODING = (
    Number("temperature", "", 0, 2, default=0.7),
    Number("top_p", "", 0, 1, default=0.9),
    Number("top_k", "", 0, 2**31 - 1, is_whole=True, default=0),
    Number("min_p", "", 0, 1, default=0),
    Number("repetition_penalty", "", 0, 10, above=True, default=1.1),
    Number("no_repeat_ngram_size", "", 0, 16, is_whole=True, default=0),
    Number("max_tokens", "", 1, 512, is_whole=True, default=60),
    Number("seed", "", -(2**63), 2**63 - 1, is_whole=True),
)


@dataclass(slots=True)
class Script:
    """What the server answers, to be changed between requests.

    Args:
        says: the pieces of each model's replies.
        pause_s: between two pieces.
        error: an answer without a stream.
        broken: how a stream ends early: "cut" without an end, "error" with an error event.
        finish: why a whole reply ended.
        num_dropped: turns that did not fit.
        key: the API key, "" if none is needed.
        asked: the bodies of all requests.
    """

    says: dict[str, list[str]] = field(default_factory=lambda: {"tuned": ["Hello", " there!"], "base": ["Hi", "."]})
    pause_s: float = 0.0
    error: ApiError | None = None
    broken: str = ""
    finish: str = "stop"
    num_dropped: int = 0
    key: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    num_closed: int = 0


@dataclass(frozen=True, slots=True)
class Scripted:
    """A running server: its address, its script, and the file of its votes."""

    address: str
    script: Script
    votes: Path


@contextmanager
def scripted_server(folder: Path) -> Iterator[Scripted]:
    """Run the server in a thread of its own, at a free port of this machine."""
    script, votes = Script(), folder / "votes.jsonl"
    config = uvicorn.Config(scripted_app(script, votes), host="127.0.0.1", port=0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            threading.Event().wait(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Scripted(f"http://127.0.0.1:{port}/", script, votes)
    finally:
        server.should_exit = server.force_exit = True
        thread.join(30)


def scripted_app(script: Script, votes: Path) -> FastAPI:
    """Return the application; it looks at the script with each request."""
    app = FastAPI()

    def guard(request: Request) -> None:
        if script.key and request.headers.get("authorization") != f"Bearer {script.key}":
            raise ApiError(401, "The API key is wrong.", code="invalid_api_key")

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error.response()

    app.add_exception_handler(ApiError, refuse)
    models = [PageModel("tuned", False), PageModel("base", True)]
    app.include_router(page_routes(models, DECODING, PERSONAS, VoteFile(votes), Limits(), guard))

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        guard(request)
        body = await request.json()
        script.asked.append(body)
        if script.error:
            raise script.error
        headers = {"X-Dropped-Turns": str(script.num_dropped)}
        return StreamingResponse(_events(script, body["model"]), headers=headers, media_type="text/event-stream")

    return app


async def _events(script: Script, model: str) -> AsyncIterator[str]:
    pieces = script.says[model]
    try:
        for number, piece in enumerate(pieces):
            await asyncio.sleep(script.pause_s)
            if script.broken and number == len(pieces) // 2:
                if script.broken == "error":
                    yield _event(ApiError(500, "The engine ran out of memory.").body())
                return
            yield _event({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
    except asyncio.CancelledError:
        script.num_closed += 1
        raise
    yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": script.finish}]})
    yield _event({"choices": [], "usage": {"completion_tokens": len(pieces)}})
    yield "data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"
