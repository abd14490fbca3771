"""From a request's fields to its answer: the prompt is encoded, and the worker is asked for each reply."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest

from falconer.data.encode import Prompt
from falconer.errors import FalconerError
from falconer.model.request import Request
from falconer.talk.server.answer import Answer, refusal
from falconer.talk.server.asked import Asked
from falconer.talk.server.bodies import Bodies
from falconer.talk.server.chat_request import ChatRequest
from falconer.talk.server.completion_request import CompletionRequest
from falconer.talk.server.errors import invalid
from falconer.talk.server.raw_text import RawText
from falconer.talk.server.reading import Reading, Text
from falconer.talk.server.service import ServedModel, Service
from falconer.talk.server.worker import BrokenError, QueueFullError, StoppingError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt, and how its reply ends and becomes text."""

    made: Prompt
    stops: tuple[int, ...]
    text: Callable[[], Text]


async def answer_chat(service: Service, request: HttpRequest, chat: ChatRequest) -> Answer:
    """Return the answer to a request for a chat completion.

    Raises:
        ApiError: persona or last message are too long, the queue is full, or the server is shutting down.
    """
    asked, model = chat.asked, service.models[chat.asked.model]
    reserve = asked.decoding.max_new_tokens
    made = await _encoded(service, "messages", lambda: model.writer.prompt(chat.persona, chat.turns, reserve))
    prompt = _Prompt(made, model.stops, lambda: model.writer.reply(asked.stops))
    return await _answer(service, request, model, asked, prompt, is_chat=True)


async def answer_completion(service: Service, request: HttpRequest, completion: CompletionRequest) -> Answer:
    """Return the answer to a request for a completion of bare text.

    Raises:
        ApiError: the text is too long, the queue is full, or the server is shutting down.
    """
    asked, model = completion.asked, service.models[completion.asked.model]
    encoder, reserve = model.writer.encoder, asked.decoding.max_new_tokens
    ids = await _encoded(service, "prompt", lambda: encoder.encode_start(completion.prompt))
    over = len(ids) + reserve - model.context
    if over > 0:
        raise invalid(
            "prompt",
            f"The prompt takes {len(ids):,} tokens and its reply up to {reserve:,}, {over:,} more than the context "
            f"allows ({model.context:,}). Shorten the prompt, or ask for a shorter reply with max_tokens.",
            "context_length_exceeded",
        )
    prompt = _Prompt(Prompt(ids), model.ends, lambda: RawText(encoder, asked.stops))
    return await _answer(service, request, model, asked, prompt, is_chat=False)


async def _encoded(service: Service, param: str, encode: Callable[[], T]) -> T:
    try:
        return await asyncio.get_running_loop().run_in_executor(service.texts, encode)
    except FalconerError as error:
        raise invalid(param, str(error), "context_length_exceeded") from error


async def _answer(
    service: Service, request: HttpRequest, model: ServedModel, asked: Asked, prompt: _Prompt, *, is_chat: bool
) -> Answer:
    readings = await _submit(service, model, asked, prompt)
    decode = model.writer.encoder.decode if asked.has_logprobs else None
    bodies = Bodies(is_chat, model.name, service.created, asked.has_usage, decode, prompt.made.num_dropped)
    state: dict[str, Any] = request.scope["state"]
    state["model"] = model.name

    def count() -> None:
        service.metrics.count(model.name, answer.usage, prompt.made.num_dropped)
        for reading in readings:
            service.metrics.time(model.name, state["arrived"], reading)

    answer = Answer(
        readings, bodies, is_stream=asked.is_stream, num_prompt=len(prompt.made.ids), limit_s=service.limits.request_s,
        on_end=count,
    )  # fmt: skip
    return answer


async def _submit(service: Service, model: ServedModel, asked: Asked, prompt: _Prompt) -> list[Reading]:
    decoding = replace(asked.decoding, stops=prompt.stops)
    readings: list[Reading] = []
    try:
        for number in range(asked.num_choices):
            stream = await service.worker.submit(
                Request(prompt.made.ids, decoding, number, prompt.made.own_turns), model.adapter
            )
            readings.append(Reading(stream, prompt.text(), prompt.stops, has_tokens=asked.has_logprobs))
    except BaseException as error:
        # The client may have gone away in between.
        for reading in readings:
            reading.cancel()
        if isinstance(error, (QueueFullError, StoppingError, BrokenError)):
            raise refusal(error) from error
        raise
    return readings
