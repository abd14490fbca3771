"""What finished replies left in the cache of the generic path: the next turn of a conversation goes on from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig

from falconer.model.generate.prefix import shared_tokens


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """What the model has read of a conversation.

    Args:
        adapter: that computed the cache; None: the base alone.
        read: the tokens in the cache.
        can_be_cut: the beginning of the cache is of use, too; otherwise it is used up when it is gone on from.
        num_bytes: see `bytes_of`.
    """

    adapter: str | None
    read: list[int]
    cache: Any
    can_be_cut: bool
    num_bytes: int


class FinishedConversations:
    """Some finished conversations; the least recently used one makes room.

    Args:
        most: the maximum number of them.
        most_bytes: the maximum size of their caches.
    """

    def __init__(self, most: int, most_bytes: float) -> None:
        self._most, self._most_bytes = most, most_bytes
        # The least recently used first.
        self._known: list[Finished] = []

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
        while len(self._known) > self._most or sum(one.num_bytes for one in self._known) > self._most_bytes:
            del self._known[0]

    def clear(self) -> None:
        """Free all of them."""
        self._known.clear()


def bytes_of(cache: Any) -> int:
    """Return the size of the tensors in a cache, whichever kind the model has."""
    if isinstance(cache, torch.Tensor):
        return cache.nbytes
    if isinstance(cache, dict):
        return sum(map(bytes_of, cache.values()))
    if isinstance(cache, (list, tuple)):
        return sum(map(bytes_of, cache))
    is_object = type(cache).__module__.startswith("transformers") and not isinstance(cache, PreTrainedConfig)
    return sum(map(bytes_of, vars(cache).values())) if is_object else 0
