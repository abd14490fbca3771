"""What the schema of a chat's messages can't say, for schemathesis: its messages are put in order."""

from typing import Any

import schemathesis

ROLES = ("system", "developer", "user", "assistant")


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


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Put a case's messages in order before it is sent; called by schemathesis, of which this file is a hook."""
    case.body = in_order(case.body)
