"""The running batch: requests join it and leave it at any time, and each step gives every reply its next token.

There is one for the fast path (`fast_running.py`) and one for the generic path (`generic_running.py`).
"""

from collections.abc import Sequence
from typing import Protocol

from falconer.model.request import Joining, Request, Said, Writing


class Running(Protocol):
    """A running batch."""

    @property
    def num_slots(self) -> int:
        """The maximum number of replies at the same time."""
        ...

    @property
    def num_running(self) -> int:
        """Replies that are being generated."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What slows the model down here, in sentences for the user."""
        ...

    def join(self, asked: Sequence[Joining]) -> list[Writing]:
        """Compute the prompts of requests and their replies' first tokens; all of them join, or none.

        Raises:
            FalconerError: there are not enough free slots.
            torch.OutOfMemoryError: they do not fit into memory; the replies that are running go on.
        """
        ...

    def step(self) -> list[tuple[Writing, Said]]:
        """Give every running reply its next token, and return all tokens that have not been returned before.

        Raises:
            torch.OutOfMemoryError: memory has no room for the step; nothing has changed.
        """
        ...

    def leave(self, writing: Writing) -> None:
        """End a reply; nothing happens if it has ended already."""
        ...


def as_said(
    request: Request, token: int, logprob: float = 0.0, values: Sequence[float] = (), ids: Sequence[int] = ()
) -> Said:
    """Return a token with the log-probabilities that its request asked for."""
    num = request.decoding.num_logprobs
    return Said(token) if num is None else Said(token, logprob, tuple(zip(ids[:num], values[:num], strict=True)))
