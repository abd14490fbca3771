"""The body of a request for a chat completion: its fields, and the persona and turns that its messages are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from falconer.model.request import Decoding
from falconer.records import Turn
from falconer.talk.server.asked import MAX_LOGPROBS, Asked, read_asked, shared_fields
from falconer.talk.server.errors import ApiError, invalid, shown
from falconer.talk.server.fields import Field, Flag, Ignored, Number, Only, Schema, object_schema, read_fields
from falconer.talk.server.limits import Limits

SYSTEM, SPEAKERS = ("system", "developer"), ("user", "assistant")
REQUIRED = ("model", "messages")
ORDER = (
    "Messages in order: first, if there is a persona, one system message with a sentence in each line; then user and "
    "assistant in turn; the last one is the user's."
)
_TEXT_PART = 'such as {"type": "text", "text": "Hi!"}'
# What answers of this interface have, which clients send back with the conversation.
_RETURNED = ("refusal", "annotations", "audio", "function_call", "tool_calls", "reasoning_content")


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation, and what is asked for.

    Args:
        persona: its sentences, in natural text.
        turns: the last one is the partner's.
    """

    asked: Asked
    persona: tuple[str, ...]
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Content:
    """The text of a message: a string, or a list of text parts, which are lines."""

    name: str = "content"

    def read(self, value: Any, where: str) -> str:
        if isinstance(value, str):
            return value
        if not isinstance(value, list) or not value:
            raise invalid(where, f"'{where}' is {shown(value)}; allowed: a text, or a list of text parts.")
        return "\n".join(_part(part, f"{where}[{number}]") for number, part in enumerate(value))

    def schema(self) -> Schema:
        part = {
            "type": "object",
            "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
            "required": ["type", "text"],
            "additionalProperties": False,
        }
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": part, "minItems": 1}]}


@dataclass(frozen=True, slots=True)
class Role:
    """Who says a message."""

    name: str = "role"

    def read(self, value: Any, where: str) -> str:
        if value not in (*SYSTEM, *SPEAKERS):
            raise invalid(where, f"'{where}' is {shown(value)}; allowed: {', '.join((*SYSTEM, *SPEAKERS))}.")
        return str(value)

    def schema(self) -> Schema:
        return {"enum": [*SYSTEM, *SPEAKERS]}


@dataclass(frozen=True, slots=True)
class Messages:
    """The messages of a conversation."""

    most: int
    name: str = "messages"

    def read(self, value: Any, where: str) -> tuple[tuple[str, str], ...]:
        if not isinstance(value, list) or not 1 <= len(value) <= self.most:
            what = f"has {len(value):,} messages" if isinstance(value, list) else f"is {shown(value)}"
            raise invalid(where, f"'{where}' {what}; allowed: a list of 1 to {self.most:,} messages.")
        return tuple(_message(message, f"{where}[{number}]") for number, message in enumerate(value))

    def schema(self) -> Schema:
        message = object_schema(_message_fields(), ("role", "content"))
        return {"type": "array", "items": message, "minItems": 1, "maxItems": self.most, "description": ORDER}


def chat_fields(names: tuple[str, ...], limits: Limits, default: Decoding) -> list[Field]:
    """Return the fields of a request; see `asked.shared_fields`."""
    no_tools = "there are no tools"
    return [
        Messages(limits.max_messages),
        *shared_fields(names, limits, default),
        Number("max_completion_tokens", "The same as max_tokens; the lower one counts.", 1, limits.max_tokens, True),
        Flag("logprobs", "Answer with the tokens of each reply and their log-probabilities."),
        Number(
            "top_logprobs", "So many alternatives of each token; asks for logprobs, too.", 0, MAX_LOGPROBS, True
        ),
        Only("tools", ([],), no_tools),
        Only("functions", ([],), no_tools),
        Only("tool_choice", ("none", "auto"), no_tools),
        Only("function_call", ("none", "auto"), no_tools),
        Only("parallel_tool_calls", (False, True), no_tools),
        Only("response_format", ({"type": "text"},), "replies are text"),
        Only("modalities", (["text"],), "replies are text"),
        *map(Ignored, ("metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "verbosity")),
        *map(Ignored, ("prompt_cache_retention", "reasoning_effort")),
    ]  # fmt: skip


def read_chat(body: Mapping[str, Any], fields: list[Field], default: Decoding) -> ChatRequest:
    """Return what a body asks for.

    Args:
        fields: from `chat_fields`.

    Raises:
        ApiError: a field is unknown or missing, or its value is not allowed; or the roles are out of order.
    """
    given = read_fields(body, fields, REQUIRED)
    num_logprobs = int(given.get("top_logprobs", 0)) if given.get("logprobs", "top_logprobs" in given) else None
    persona, turns = _conversation(given["messages"])
    return ChatRequest(read_asked(given, default, num_logprobs), persona, turns)


def _message_fields() -> tuple[Field, ...]:
    returned = (Only(name, ([],) if name == "annotations" else (), "replies are text") for name in _RETURNED)
    return (Role(), Content(), Ignored("name"), *returned)


def _message(value: Any, where: str) -> tuple[str, str]:
    if not isinstance(value, dict):
        raise invalid(where, f"'{where}' is {shown(value)}; allowed: an object with 'role' and 'content'.")
    given = read_fields(value, _message_fields(), ("role", "content"), where)
    return given["role"], given["content"]


def _part(value: Any, where: str) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind != "text":
        what = f"is of type {shown(kind)}" if kind else f"is {shown(value)}"
        raise invalid(where, f"'{where}' {what}; allowed: text parts alone, {_TEXT_PART}.")
    unknown = sorted(set(value) - {"type", "text"})
    if unknown or not isinstance(value.get("text"), str):
        what = f"has the field {shown(unknown[0])}" if unknown else f"has the text {shown(value.get('text'))}"
        raise invalid(where, f"'{where}' {what}; allowed: 'type' and 'text', which is a text.")
    return str(value["text"])


def _conversation(messages: tuple[tuple[str, str], ...]) -> tuple[tuple[str, ...], tuple[Turn, ...]]:
    """Return persona and turns.

    Raises:
        ApiError: the roles are out of order.
    """
    has_persona = messages[0][0] in SYSTEM
    persona = messages[0][1].split("\n") if has_persona else []
    turns: list[Turn] = []
    for number, (role, text) in enumerate(messages[has_persona:], start=int(has_persona)):
        if role in SYSTEM:
            raise _out_of_order(number, f"is a {role} message, which is allowed only at the beginning")
        if number > has_persona and role == messages[number - 1][0]:
            raise _out_of_order(number, f"is a second '{role}' message in a row")
        turns.append(Turn("partner" if role == "user" else "self", text))
    if not turns or turns[-1].speaker != "partner":
        raise _out_of_order(len(messages) - 1, f"is the last message and of role '{messages[-1][0]}', not 'user'")
    return tuple(line.strip() for line in persona if line.strip()), tuple(turns)


def _out_of_order(number: int, what: str) -> ApiError:
    return invalid(f"messages[{number}].role", f"'messages[{number}]' {what}. {ORDER}", "message_order")
