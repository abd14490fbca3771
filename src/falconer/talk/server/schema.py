"""The OpenAPI schema: the bodies of answers, which statuses each operation may have, and what a request must carry."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from falconer.talk.server.fields import Field, object_schema


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorDetails(_Body):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(_Body):
    error: ErrorDetails


class TokensDetails(_Body):
    cached_tokens: int


class UsageBody(_Body):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: TokensDetails


class ChatMessage(_Body):
    role: Literal["assistant"]
    content: str
    refusal: None


class TopLogprob(_Body):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(_Body):
    content: list[TokenLogprob]
    refusal: None


class ChatChoice(_Body):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(_Body):
    """`dropped_turns` is the number of turns, oldest first, that did not fit into the context."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageBody
    dropped_turns: int


class TextLogprobs(_Body):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(_Body):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(_Body):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageBody


class ModelBody(_Body):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int


class ModelList(_Body):
    object: Literal["list"]
    data: list[ModelBody]


class Health(_Body):
    status: Literal["ok"]


# What each status means, beside 200; 401 and 403 only where the server checks keys and names.
_MEANINGS = MappingProxyType({
    400: "The body is not valid: the message names the field and says what is allowed.",
    401: "The API key is missing or wrong.",
    403: "The server does not answer to the name in the Host header.",
    404: "There is no such model.",
    408: "The body was not received in time.",
    413: "The body is too large.",
    415: "The content type is not JSON.",
    429: "The queue is full.",
    500: "The server failed.",
    503: "The server is shutting down, or the engine has failed.",
    504: "The reply took too long.",
})  # fmt: skip
TO_ASK = (400, 404, 408, 413, 415, 429, 500, 503, 504)
_EVENT = "Each event has a chunk of the answer as JSON in OpenAI's form, or an error; the last one is [DONE]."


def responses(
    model: type[BaseModel] | None, statuses: Sequence[int], *, is_stream: bool = False, text: str = ""
) -> dict[int | str, dict[str, Any]]:
    """Return an operation's answers for FastAPI.

    Args:
        model: the body of status 200, None where it is a text.
        statuses: of errors.
        is_stream: status 200 may be a stream of events instead.
        text: the media type of a text.
    """
    good: dict[str, Any] = {"description": "The answer."} | ({"model": model} if model else {})
    if is_stream:
        data = {"type": "string", "description": _EVENT}
        event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
        good["content"] = {"text/event-stream": {"schema": event}}
    if text:
        good["content"] = {text: {"schema": {"type": "string"}}}
    found: dict[int | str, dict[str, Any]] = {200: good}
    for status in statuses:
        found[status] = {"description": _MEANINGS[status], "model": ErrorBody}
        if status == 429:
            seconds = {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds."}
            found[status]["headers"] = {"Retry-After": seconds}
    return found


def request_body(fields: Sequence[Field], required: Sequence[str], example: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of an operation that describes its request's body."""
    content = {"application/json": {"schema": object_schema(fields, required), "example": dict(example)}}
    return {"requestBody": {"required": True, "content": content}}


def completed(schema: dict[str, Any], *, has_key: bool, open_paths: Sequence[str]) -> dict[str, Any]:
    """Return FastAPI's schema with the server's key, and without the status 422, which this server never has.

    Args:
        has_key: requests must carry a key.
        open_paths: those that need none.
    """
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            if not has_key or path in open_paths:
                operation["responses"].pop("401", None)
            if has_key:
                operation["security"] = [] if path in open_paths else [{"key": []}]
    parts = schema.setdefault("components", {})
    for name in ("HTTPValidationError", "ValidationError"):
        parts.get("schemas", {}).pop(name, None)
    if has_key:
        parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return schema
