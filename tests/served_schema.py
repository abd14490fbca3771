"""What the schema can't say of a request, for schemathesis: messages are in order, and all of it fits the context."""

from typing import Any

import schemathesis

ROLES = ("system", "developer", "user", "assistant")
# Characters of a text and tokens of a reply that fit even a small context.
MOST_CHARACTERS, MOST_TOKENS = 40, 64


def in_order(body: Any) -> Any:
    """Return a body whose messages, if all have known roles, have these in the order that conversations have.

    JSON Schema has no word for "in turn, and the last one is the user's", so a request may follow the schema and be
    refused. Everything else is left as it was.
    """
    messages = body.get("messages") if isinstance(body, dict) else None
    if not isinstance(messages, list) or not messages:
        return body
    if not all(isinstance(one, dict) and one.get("role") in ROLES for one in messages):
        return body
    has_persona = len(messages) > 1 and messages[0]["role"] in ROLES[:2]
    turns = messages[has_persona:]
    roles = [("user", "assistant")[(len(turns) - 1 - place) % 2] for place in range(len(turns))]
    ordered = [{**one, "role": role} for one, role in zip(turns, roles, strict=True)]
    return {**body, "messages": [*messages[:has_persona], *ordered]}


def fitting(body: Any) -> Any:
    """Return a body with long texts cut, and long replies that are allowed shortened; the rest as it was."""
    if not isinstance(body, dict):
        return body
    found = dict(body)
    for name in ("max_tokens", "max_completion_tokens"):
        if type(found.get(name)) is int and MOST_TOKENS < found[name] <= 256:
            found[name] = MOST_TOKENS
    if isinstance(found.get("prompt"), str):
        found["prompt"] = found["prompt"][:MOST_CHARACTERS]
    if isinstance(found.get("messages"), list):
        found["messages"] = [_cut(message) for message in found["messages"]]
    return found


def _cut(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": content[:MOST_CHARACTERS]}
    parts = content if isinstance(content, list) else [None]
    if all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
        # An empty list is an error of its own.
        return {**message, "content": [{**part, "text": part["text"][:MOST_CHARACTERS]} for part in parts[:2]]}
    return message


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Change a case before it is sent; called by schemathesis, of which this file is a hook."""
    case.body = fitting(in_order(case.body))
