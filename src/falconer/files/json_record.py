"""Reading a JSON file that holds one value: the records of a run, of an adapter or a model, whoever wrote it."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from falconer.errors import FalconerError
from falconer.files.json_value import NotJson, load_value

# A record of a million dialogues' hashes takes a tenth of this.
_MAX_BYTES = 1 << 30


def read_object(path: Path, hint: str) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Raises:
        FalconerError: it can't be read, or is no such object; the message names the file, and where in it.
    """
    return object_in(read_text(path, hint), path, hint)


def object_in(text: str, path: Path, hint: str) -> dict[str, Any]:
    """Return the JSON object that the text of a file stands for; see `read_object`."""
    found = value_in(text, path, hint)
    if not isinstance(found, dict):
        raise FalconerError(f"'{path}' is damaged: it is not a JSON object.", hint)
    return found


def value_in(text: str, path: Path, hint: str, parse_constant: Callable[[str], Any] | None = None) -> Any:
    """Return the value that the text of a JSON file stands for; `parse_constant` as in `json.loads`.

    Raises:
        FalconerError: see `read_object`; also if a text in it has a zero byte or half of a surrogate pair.
    """
    try:
        found = load_value(text, parse_constant)
    except NotJson as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        raise FalconerError(
            f"'{path}' is damaged: line {line}, column {column}: not JSON: {error.reason}.", hint
        ) from None
    if "\\u" in text and (bad := _bad_text(found)):
        raise FalconerError(f"'{path}' is damaged: {bad}.", hint)
    return found


def is_missing(path: Path) -> bool:
    """Tell whether there is no such file; one that may not be looked at is not missing."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        pass
    return False


def check_is_file(path: Path, hint: str) -> None:
    """Check that something is a file: opening a pipe would wait for ever.

    Raises:
        FalconerError: it is missing, or of another kind.
    """
    try:
        kind = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FalconerError(f"'{path}' can't be read: {reason}.", hint) from error
    if not stat.S_ISREG(kind):
        reason = os.strerror(errno.EISDIR) if stat.S_ISDIR(kind) else "it is not a file"
        raise FalconerError(f"'{path}' can't be read: {reason}.", hint)


def read_text(path: Path, hint: str) -> str:
    """Return the text of a file in UTF-8.

    Raises:
        FalconerError: it can't be read, is huge, or not UTF-8.
    """
    check_is_file(path, hint)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(_MAX_BYTES + 1) if size <= _MAX_BYTES else b""
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FalconerError(f"'{path}' can't be read: {reason}.", hint) from error
    if max(size, len(data)) > _MAX_BYTES:
        raise FalconerError(f"'{path}' is damaged: it is larger than {_MAX_BYTES >> 30} GiB.", hint)
    try:
        return data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise FalconerError(f"'{path}' is damaged: {error}.", hint) from error


def _bad_text(value: Any) -> str:
    """Return where a value has a text that no file and no terminal can take, and why; "" if there is none."""
    left: list[tuple[str, Any]] = [("", value)]
    while left:
        field, inner = left.pop()
        if isinstance(inner, dict):
            left += [(f"{field}.{key}".lstrip("."), item) for key, item in inner.items()]
            left += [(f"a key in '{field}'" if field else "a key", key) for key in inner]
        elif isinstance(inner, list):
            left += [(f"{field}[{number}]", item) for number, item in enumerate(inner)]
        elif isinstance(inner, str):
            if "\0" in inner:
                return f"{field or 'its text'} contains a zero byte"
            if any("\ud800" <= char <= "\udfff" for char in inner):
                return f"{field or 'its text'} contains half of a surrogate pair, which is not a character"
    return ""
