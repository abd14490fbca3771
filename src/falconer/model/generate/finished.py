"""What finished replies left in the cache of the generic path: the next turn of a conversation goes on from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from falconer.model.generate.prefix import shared_tokens


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """What the model has read of a conversation.

    Args:
        adapter: that computed the cache; None: the base alone.
        read: the tokens in the cache.
        can_be_cut: the beginning of the cache is of use, too; otherwise it is used up when it is gone on from.
    """

    adapter: str | None
    read: list[int]
    cache: Any
    can_be_cut: bool


class FinishedConversations:
    """Some finished conversations; the least recently used one makes room.

    Args:
        most: the maximum number of them.
    """

    def __init__(self, most: int) -> None:
        # The least recently used first.
        self._most, self._known = most, list[Finished]()

    def __len__(self) -> int:
        return len(self._known)

    def longest(self, adapter: str | None, prompt: Sequence[int]) -> tuple[int, Finished | None]:
        """Return how many tokens of a prompt are cached, at most all but its last one, and where."""
        best: tuple[int, Finished | None] = (0, None)
        for one in self._known:
            if one.adapter == adapter and one.read[0] == prompt[0]:
                shared = shared_tokens(one.read, prompt)
                if shared > best[0] and (one.can_be_cut or shared == len(one.read)):
                    best = (shared, one)
        return best

    def use(self, found: Finished) -> None:
        """Note that a conversation is gone on from."""
        self._known.remove(found)
        if found.can_be_cut:
            self._known.append(found)

    def keep(self, finished: Finished) -> None:
        """Keep a conversation in place of its earlier turns."""
        self._known = [
            one for one in self._known
            if one.adapter != finished.adapter or one.read != finished.read[: len(one.read)]
        ]  # fmt: skip
        self._known.append(finished)
        del self._known[: -self._most or None]

    def clear(self) -> None:
        """Free all of them."""
        self._known.clear()
