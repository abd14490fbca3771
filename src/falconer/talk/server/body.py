"""The JSON object in a request's body: received up to a limit, and read strictly."""

import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from starlette.requests import Request

from falconer.files.json_value import whole_number
from falconer.talk.server.errors import ApiError, invalid, shown
from falconer.talk.server.limits import Limits

# Half of a pair of UTF-16: as a number it may be written in JSON, but it is no character.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_HEADER = "Content-Type: application/json"


async def read_object(request: Request, limits: Limits) -> dict[str, Any]:
    """Receive and read a request's body.

    Raises:
        ApiError: 400 for what is no JSON object, 413 or 415.
        ClientDisconnect: the client has gone away, or took too long (see `connections.py`).
    """
    _check_type(request)
    found = parse(await _receive(request, limits.max_body))
    # For the log, if the user wants requests in it.
    request.scope["state"]["body"] = found
    return found


def parse(raw: bytes) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ApiError: it is not valid UTF-8, not JSON, nested too deeply or no object; it has a key twice, NaN, an infinite
            number, an integer that no floating-point number can hold, or half of a surrogate pair.
    """
    if not raw.strip():
        raise invalid("", "The body is empty; send a JSON object.")
    try:
        value = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse, parse_int=whole_number
        )
        if _SURROGATE.search(raw):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise invalid("", f"The body is not valid UTF-8: byte {raw[error.start]:#04x} at {error.start}.") from error
    except UnicodeEncodeError as error:
        raise invalid(
            "", "The body has half of a surrogate pair (\\ud800 to \\udfff alone), which is no character."
        ) from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise invalid("", f"The body is not valid JSON: {error.msg} ({where}).") from error
    except ValueError as error:
        raise invalid("", "The body is not valid JSON: a number has too many digits.") from error
    except RecursionError as error:
        raise invalid("", "The body is nested too deeply.") from error
    if not isinstance(value, dict):
        raise invalid("", f"The body is {shown(value)}; send a JSON object.")
    return value


def _check_type(request: Request) -> None:
    given = request.headers.get("content-type", "")
    kind, *parameters = (part.strip().lower() for part in given.split(";"))
    charset = [part.removeprefix("charset=").strip('"') for part in parameters if part.startswith("charset=")]
    if kind != "application/json" or any(name not in ("utf-8", "utf8") for name in charset):
        what = f"is {shown(given)}" if given else "is missing"
        raise ApiError(
            415, f"The content type {what}; send JSON in UTF-8 with the header {_HEADER}.", code="content_type"
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "The body is compressed; send it without Content-Encoding.", code="content_encoding")


async def _receive(request: Request, most: int) -> bytes:
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise _too_large(most)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise _too_large(most)
        parts.append(part)
    return b"".join(parts)


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"The body is too large; allowed: {most:,} bytes.", code="body_too_large")


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise invalid(name, f"The body has the field {shown(name)} twice in one object.")
    return found


def _refuse(constant: str) -> NoReturn:
    raise invalid("", f"The body has the number {constant}, which is not valid JSON.")
