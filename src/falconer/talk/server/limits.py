"""The limits of a server: of one request, of all of them, and of time."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server accepts.

    Args:
        max_body: bytes of a request's body.
        max_head: bytes of a request's line and headers.
        max_messages: messages of a conversation.
        max_tokens: tokens of a reply.
        max_choices: replies to one request.
        max_connections: connections at the same time; a further one is answered with 503 and closed.
        receive_s: how long a client may take to send a request, from its first byte to its last.
        request_s: how long an answer may take, waiting included.
        idle_s: how long a connection stays open between two requests.
    """

    max_body: int = 2**20
    max_head: int = 2**15
    max_messages: int = 1024
    max_tokens: int = 512
    max_choices: int = 8
    max_connections: int = 1024
    receive_s: float = 20
    request_s: float = 300
    idle_s: float = 30
