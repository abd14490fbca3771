"""What the server answers if it can't serve a request: a status, and a body as OpenAI's interface has it."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

# Why there is no answer: OpenAI's words for the field "type".
INVALID, REFUSED, LIMITED, FAILED = "invalid_request_error", "authentication_error", "rate_limit_error", "server_error"


class ApiError(Exception):
    """A request that is not served.

    Args:
        status: of the HTTP response.
        message: what was given, and what is allowed.
        param: the field that it is about, such as "messages[2].role".
        code: a word for programs, such as "model_not_found".
        headers: further headers of the response, such as Retry-After.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def type(self) -> str:
        if self.status >= 500:
            return FAILED
        if self.status in (401, 403):
            return REFUSED
        return LIMITED if self.status == 429 else INVALID

    def body(self) -> dict[str, Any]:
        """Return the body: {"error": {...}}."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def encoded(self) -> bytes:
        """Return the body as bytes; in ASCII, so that it can quote any text."""
        return json.dumps(self.body()).encode("ascii")

    def response(self) -> Response:
        """Return the response."""
        return Response(self.encoded(), self.status, self.headers, "application/json")


def invalid(where: str, message: str, code: str | None = None) -> ApiError:
    """Return the error about a field that can't be used.

    Args:
        where: the field, "" for the whole body.
    """
    return ApiError(400, message, param=where or None, code=code)


def failed() -> ApiError:
    """Return the answer to a request at which the server itself failed."""
    return ApiError(500, "The server failed; its log says where.", code="internal_error")


def shown(value: object) -> str:
    """Return a value of a body as it is quoted in a message: as JSON, and not at length."""
    text = as_json(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def as_json(value: object) -> str:
    """Return a value of a body as JSON, its keys in order; "..." for one that is nested too deeply to be written."""
    try:
        return json.dumps(value, sort_keys=True)
    except RecursionError:
        return "..."
