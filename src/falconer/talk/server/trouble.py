"""What the server's log says: of its own errors, where they happened; of requests, only if it was asked for."""

import json
import sys
import traceback
from datetime import UTC, datetime
from typing import Any


def report(error: BaseException) -> None:
    """Write an error to stderr: its type and where it happened; not its message, which may quote a request."""
    lines = traceback.format_tb(error.__traceback__)
    print(f"falconer: the server failed: {type(error).__qualname__}\n{''.join(lines)}", file=sys.stderr, flush=True)


def log_request(scope: Any, status: int, took_s: float) -> None:
    """Write a request that was answered to stderr, as a line of JSON, with its text."""
    state = scope["state"]
    found = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "client": scope["client"][0] if scope.get("client") else None,
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "seconds": round(took_s, 3),
        "model": state.get("model"),
        "body": state.get("body"),
    }
    print(json.dumps(found), file=sys.stderr, flush=True)
