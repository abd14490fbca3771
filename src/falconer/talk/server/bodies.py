"""The bodies of answers: whole ones as JSON, and the events of a stream, whose unchanging parts are written once."""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from falconer.talk.server import logprobs
from falconer.talk.server.errors import ApiError
from falconer.talk.server.reading import Piece

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of a request: of the prompt, of these those in the cache, and of all replies."""

    num_prompt: int
    num_cached: int
    num_replies: int

    def to_json(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.num_prompt,
            "completion_tokens": self.num_replies,
            "total_tokens": self.num_prompt + self.num_replies,
            "prompt_tokens_details": {"cached_tokens": self.num_cached},
        }


@dataclass(slots=True)
class Bodies:
    """The bodies of one answer.

    Args:
        is_chat: a chat completion; otherwise a completion of bare text.
        has_usage: the stream ends with the number of tokens.
        decode: of tokens, for log-probabilities; None where they were not asked for.
        num_dropped: turns that did not fit into the context.
    """

    is_chat: bool
    model: str
    created: int
    has_usage: bool = False
    decode: logprobs.Decode | None = None
    num_dropped: int = 0
    id: str = field(init=False)
    _prefix: str = field(init=False)
    _suffix: str = field(init=False)

    def __post_init__(self) -> None:
        self.id = ("chatcmpl-" if self.is_chat else "cmpl-") + secrets.token_hex(12)
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        self._prefix = f'data: {_compact(head)[:-1]},"choices":['
        self._suffix = "]" + (',"usage":null' if self.has_usage else "") + "}\n\n"

    def opening(self, index: int) -> bytes:
        """Return the first event of a reply; there is none for bare text."""
        if not self.is_chat:
            return b""
        suffix = self._suffix.replace("]", f'],"dropped_turns":{self.num_dropped}', 1)
        delta = '"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null'
        return f'{self._prefix}{{"index":{index},{delta}}}{suffix}'.encode("ascii")

    def piece(self, index: int, piece: Piece, start: int) -> bytes:
        """Return the event of a piece of text.

        Args:
            start: characters of the reply before this piece.
        """
        text = json.dumps(piece.text)
        content = f'"delta":{{"content":{text}}}' if self.is_chat else f'"text":{text}'
        found = "null" if self.decode is None else _compact(self._logprobs(piece, start))
        rest = f'{content},"logprobs":{found},"finish_reason":null'
        return f'{self._prefix}{{"index":{index},{rest}}}{self._suffix}'.encode("ascii")

    def closing(self, index: int, finish: str) -> bytes:
        """Return the last event of a reply, which says why it ended."""
        content = '"delta":{}' if self.is_chat else '"text":""'
        rest = f'{content},"logprobs":null,"finish_reason":"{finish}"'
        return f'{self._prefix}{{"index":{index},{rest}}}{self._suffix}'.encode("ascii")

    def usage(self, usage: Usage) -> bytes:
        """Return the event with the number of tokens; none if it was not asked for."""
        if not self.has_usage:
            return b""
        return f'{self._prefix}],"usage":{_compact(usage.to_json())}}}\n\n'.encode("ascii")

    def whole(self, replies: Sequence[tuple[Sequence[Piece], str]], usage: Usage) -> bytes:
        """Return the body of an answer that is no stream.

        Args:
            replies: of each, its pieces and why it ended.
        """
        body = {
            "id": self.id,
            "object": "chat.completion" if self.is_chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": [self._choice(index, *reply) for index, reply in enumerate(replies)],
            "usage": usage.to_json(),
        }
        return _compact(body | ({"dropped_turns": self.num_dropped} if self.is_chat else {})).encode("ascii")

    def _choice(self, index: int, pieces: Sequence[Piece], finish: str) -> dict[str, Any]:
        whole = Piece("".join(piece.text for piece in pieces), tuple(one for piece in pieces for one in piece.said))
        message = {"role": "assistant", "content": whole.text, "refusal": None}
        content: dict[str, Any] = {"message": message} if self.is_chat else {"text": whole.text}
        return {"index": index, **content, "logprobs": self._logprobs(whole, 0), "finish_reason": finish}

    def _logprobs(self, piece: Piece, start: int) -> dict[str, Any] | None:
        if self.decode is None:
            return None
        if self.is_chat:
            return logprobs.of_chat(piece.said, self.decode)
        return logprobs.of_text(piece.said, self.decode, start)


def failure(error: ApiError) -> bytes:
    """Return the event with which a stream ends if it can't go on."""
    return b"data: " + error.encoded() + b"\n\n"


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
