"""The body of a request for a completion of bare text: its fields, and the prompt."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from falconer.model.request import Decoding
from falconer.talk.server.asked import MAX_LOGPROBS, Asked, read_asked, shared_fields
from falconer.talk.server.errors import invalid, shown
from falconer.talk.server.fields import Field, Ignored, Number, Only, Schema, read_fields
from falconer.talk.server.limits import Limits

REQUIRED = ("model", "prompt")


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """A text to continue, as it is, and what is asked for."""

    asked: Asked
    prompt: str


@dataclass(frozen=True, slots=True)
class PromptText:
    """The text to continue: a string, or a list of one string."""

    name: str = "prompt"

    def read(self, value: Any, where: str) -> str:
        text = value[0] if isinstance(value, list) and len(value) == 1 else value
        if not isinstance(text, str) or not text:
            raise invalid(where, f"'{where}' is {shown(value)}; allowed: one text of at least one character.")
        return text

    def schema(self) -> Schema:
        text = {"type": "string", "minLength": 1}
        several = {"type": "array", "items": text, "minItems": 1, "maxItems": 1}
        return {"anyOf": [text, several], "description": "Continued as it is: no persona, no tags of speakers."}


def completion_fields(names: tuple[str, ...], limits: Limits, default: Decoding) -> list[Field]:
    """Return the fields of a request; see `asked.shared_fields`."""
    return [
        PromptText(),
        *shared_fields(names, limits, default),
        Number("logprobs", "Answer with so many alternatives of each token.", 0, MAX_LOGPROBS, is_whole=True),
        Only("echo", (False,), "the prompt is not repeated"),
        Only("suffix", ("",), "text can't be inserted before a suffix"),
        Only("best_of", (1,), "every reply that is generated is returned"),
        *map(Ignored, ("metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")),
    ]


def read_completion(body: Mapping[str, Any], fields: list[Field], default: Decoding) -> CompletionRequest:
    """Return what a body asks for.

    Args:
        fields: from `completion_fields`.

    Raises:
        ApiError: a field is unknown or missing, or its value is not allowed.
    """
    given = read_fields(body, fields, REQUIRED)
    return CompletionRequest(read_asked(given, default, given.get("logprobs")), given["prompt"])
