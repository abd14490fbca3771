"""One JSON value, or the reason why it is not valid."""

import json
import re
from collections.abc import Callable
from typing import Any

# What is left of a literal, a number or an escape at the end of a file that was cut off.
_CUT_LITERAL = re.compile(r"(?:t|tr|tru|f|fa|fal|fals|n|nu|nul|-|\.|[eE][+-]?)?\s*")
_CUT_ESCAPE = re.compile(r"\\?u?[0-9a-fA-F]{0,4}")
_SPACE = re.compile(r"[ \t\r\n]*")
# An integer with a sign and less digits than this is smaller than the largest floating-point number, 1.8e308.
_SAFE_DIGITS = 309
_PYTHON = re.compile(r"(None|True|False)\b")


class NotJson(Exception):
    """Text that is not JSON: why, and at which character."""

    def __init__(self, reason: str, position: int) -> None:
        super().__init__(reason)
        self.reason, self.position = reason, position


class Refused(ValueError):
    """What `parse_constant` and `parse_int` raise of a constant or number that has no place there."""


def load_value(text: str, parse_constant: Callable[[str], Any] | None = None) -> Any:
    """Return the value that a JSON text stands for; `parse_constant` as in `json.loads`, for NaN and Infinity.

    Raises:
        NotJson: it is none, or one that nobody can have meant: nested too deep, an integer that no floating-point
            number can hold (of more than 308 digits).
    """
    value, end = decode(text, skip_space(text, 0), parse_constant)
    end = skip_space(text, end)
    if text[end : end + 1] == ",":
        raise NotJson("a comma follows it; JSON Lines has no commas between its lines", end)
    if end < len(text):
        raise NotJson("a second value follows the first", end)
    return value


def decode(text: str, start: int, parse_constant: Callable[[str], Any] | None = None) -> tuple[Any, int]:
    """Return the value that begins at a character, and where it ends; a NotJson if there is none."""
    try:
        return json.JSONDecoder(parse_constant=parse_constant, parse_int=whole_number).raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise NotJson(reason(error.msg, text, error.pos), error.pos) from None
    except RecursionError:
        raise NotJson("it is nested hundreds of levels deep", start) from None
    except Refused as error:
        raise NotJson(str(error), start) from None


def whole_number(digits: str) -> int:
    """Return an integer of JSON, as `parse_int` of `json.loads`.

    Everything that computes with numbers converts them to floating point, and Python raises OverflowError for larger
    ones there, far from the file that has them.

    Raises:
        Refused: no floating-point number is as large: it is 2^1024 or more.
    """
    # Without counting digits first, an integer of a million digits would take Python seconds, or raise ValueError.
    if len(digits) < _SAFE_DIGITS:
        return int(digits)
    if len(digits) < 2 * _SAFE_DIGITS:
        try:
            float(number := int(digits))
            return number
        except OverflowError:
            pass
    raise Refused("it contains a number with hundreds of digits, larger than any floating-point number")


def skip_space(text: str, position: int) -> int:
    """Return the place of the first character that is no white space."""
    match = _SPACE.match(text, position)
    return match.end() if match else position


def reason(message: str, text: str, position: int) -> str:
    """Return why a text stopped being JSON at a place, in words that say how to mend it."""
    before, rest = text[max(0, position - 100) : position].rstrip(), text[position : position + 100]
    is_last = position + 100 >= len(text)
    cut = _CUT_ESCAPE if message.startswith("Invalid \\") else _CUT_LITERAL
    if message.startswith("Unterminated") or (is_last and cut.fullmatch(rest)):
        return "it ends too early, so the file was cut off"
    behind_comma = rest[1:].lstrip()[:1] if rest[0] == "," else rest[0] if before.endswith(",") else ""
    if behind_comma and behind_comma in "]}":
        return "there is a comma before the closing bracket, which JSON does not allow"
    if rest[0] == "'":
        return "a string is in single quotes, as Python prints it; JSON has double quotes (use json.dumps)"
    if python := _PYTHON.match(rest):
        return f"{python[1]} is Python; JSON has null, true and false (use json.dumps)"
    if rest.startswith(("//", "/*", "#")):
        return "it contains a comment, which JSON does not allow"
    if rest[0] == "\ufeff":
        return "there is a byte order mark in the middle, where two files were joined"
    if message.startswith("Invalid control character"):
        return "a string contains a line break or tab; write them as \\n and \\t"
    if message.startswith("Invalid \\"):
        return "a backslash begins no escape; a backslash itself is written \\\\"
    if message.startswith("Expecting ',' delimiter"):
        return 'a comma is missing, or a quote inside a text is not escaped (\\")'
    return message
