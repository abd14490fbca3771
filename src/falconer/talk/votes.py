"""Blind votes between two replies: what one is, and the JSON Lines file that they are appended to."""

import contextlib
import errno
import fcntl
import json
import math
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from falconer.files.disk_errors import explain_disk_errors
from falconer.files.durable import make_folder, sync_folder
from falconer.records import Speaker

_MAX_TEXT = 100_000  # characters
_MAX_SENTENCES, _MAX_TURNS = 200, 2000

Text = Annotated[str, Field(max_length=_MAX_TEXT)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class VotedTurn(_Part):
    """A turn of the conversation before the two replies."""

    speaker: Speaker
    text: Text


class VotedDecoding(_Part):
    """How a reply's tokens were chosen, by the names of the API."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    max_tokens: int | None = None
    seed: int | None = None

    @model_validator(mode="after")
    def _is_finite(self) -> Self:
        for name, value in self:
            if value is not None and not math.isfinite(value):
                raise ValueError(f"'{name}' is {value}; allowed: a finite number")
        return self


class VotedReply(_Part):
    """One of the two replies."""

    model: Name
    text: Text
    decoding: VotedDecoding = VotedDecoding()


class Vote(_Part):
    """Two replies of different models to one conversation, and which one was found better.

    Args:
        history: the turns before the replies, oldest first; the last one is the partner's.
        left, right: the replies as they stood, in random order and without names.
        vote: which of the two is better, or that neither is.
    """

    persona: Annotated[list[Text], Field(max_length=_MAX_SENTENCES)]
    history: Annotated[list[VotedTurn], Field(min_length=1, max_length=_MAX_TURNS)]
    left: VotedReply
    right: VotedReply
    vote: Literal["left", "right", "tie"]

    @model_validator(mode="after")
    def _is_a_choice(self) -> Self:
        if self.left.model == self.right.model:
            raise ValueError(f"both replies are of '{self.left.model}'; allowed: two different models")
        if self.history[-1].speaker != "partner":
            raise ValueError("the history ends with a turn of 'self'; allowed: a turn of 'partner'")
        return self

    def row(self, time: datetime) -> dict[str, Any]:
        """Return the vote as a row of a file; `left`, `right`, `vote` and `winner` are those of the report's votes."""
        sides = {"left": self.left, "right": self.right}
        return {
            "time": time.astimezone(UTC).isoformat(timespec="seconds"),
            "persona": self.persona,
            "history": [turn.model_dump() for turn in self.history],
            "replies": {side: reply.text for side, reply in sides.items()},
            "left": self.left.model,
            "right": self.right.model,
            "vote": self.vote,
            "winner": None if self.vote == "tie" else sides[self.vote].model,
            "decoding": {side: reply.decoding.model_dump(exclude_none=True) for side, reply in sides.items()},
        }


class VoteFile:
    """A JSON Lines file of votes, a row each. Several threads, and servers, may append to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def append(self, vote: Vote) -> None:
        """Append a vote and sync it to the disk.

        Raises:
            FalconerError: the file can't be written to, or the disk is full.
        """
        row = json.dumps(vote.row(datetime.now(UTC)), ensure_ascii=False)
        with self._lock, explain_disk_errors(self.path):
            make_folder(self.path.parent)
            is_new = not self.path.exists()
            self._write(row.encode("utf-8") + b"\n")
            if is_new:
                sync_folder(self.path.parent)

    def _write(self, line: bytes) -> None:
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
        try:
            # Another server may be writing; some network drives have no locks.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            # A full disk or a power failure may have cut off the last row: it stays on a line of its own.
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
