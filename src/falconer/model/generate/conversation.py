"""Conversations on the fast path: each has its own prefix cache, and their steps are batched.

Every conversation has a row of one cache. A reply's keys are stored after its prompt's, so that the next turn finds
both. A reply that is being generated has a slot. When the next token of one reply is requested, all slots advance, and
the tokens of the others are buffered. So all conversations share the recorded steps.

Shapes: L layers, P tokens of the cache, H head size.
"""

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import torch

from falconer.errors import FalconerError
from falconer.model.falcon.infer_pass import Forward
from falconer.model.generate.prefix import extend
from falconer.model.generate.sampling import Kind, Request
from falconer.model.generate.slots import Entering, Slots, first_tokens


@dataclass(slots=True, eq=False)
class Row:
    """A conversation's part of the cache.

    Args:
        start: where it begins.
        owner: the conversation that uses it, None if it is free.
        known: the tokens whose keys and values it contains, from the start.
    """

    start: int
    owner: int | None = None
    known: list[int] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Writing:
    """A reply that is being generated.

    Args:
        said: its tokens so far.
        is_done: the reply is finished.
    """

    request: Request
    row: Row
    said: list[int]
    is_done: bool = False


class Pool:
    """The rows and slots of all conversations of one engine.

    Args:
        unknown: tokens that are never generated, int64.
        num_rows: the maximum number of cached conversations, and of replies at the same time.
        row_tokens: tokens of the longest conversation, including its last reply.
    """

    def __init__(self, forward: Forward, unknown: torch.Tensor, num_rows: int, row_tokens: int) -> None:
        self.forward, self.row_tokens = forward, row_tokens
        # After the rows is a token for each slot without a reply, to which it writes.
        self._spare = num_rows * row_tokens
        cache_LP2H = forward.new_cache(self._spare + num_rows)
        spare_B = torch.arange(self._spare, self._spare + num_rows, device=forward.path.device)
        self.slots = Slots(forward, cache_LP2H, cache_LP2H, spare_B, row_tokens, unknown)
        # The least recently used first.
        self._rows = deque(Row(number * row_tokens) for number in range(num_rows))
        self._writing: list[Writing] = []

    def stream(self, owner: int, request: Request) -> Generator[int, None, None]:
        """Yield a reply's tokens; the cached beginning of the prompt is not computed again.

        Args:
            owner: the conversation; if its previous reply is still being generated, it is stopped.

        Raises:
            FalconerError: all rows are used by replies that are being generated.
        """
        writing = self._begin(owner, request)
        try:
            place = 0
            while True:
                while place == len(writing.said) and not writing.is_done:
                    self._advance()
                if place == len(writing.said):
                    return
                yield writing.said[place]
                place += 1
        finally:
            self._end(writing)

    def end(self, owner: int) -> None:
        """End the reply of a conversation that is still being written."""
        for writing in [one for one in self._writing if one.row.owner == owner]:
            self._end(writing)

    def forget(self, owner: int) -> None:
        """Free a conversation's row. May be called at any time, also by the garbage collector."""
        for row in list(self._rows):
            if row.owner == owner:
                row.owner, row.known = None, []

    def _row_of(self, owner: int) -> Row:
        self.end(owner)
        busy = {id(writing.row) for writing in self._writing}
        idle = [row for row in self._rows if id(row) not in busy]
        if not idle:
            raise FalconerError(
                f"{len(self._rows)} replies are already being generated, which is the maximum.",
                "Wait until one of them is finished, or create the engine with a larger num_conversations.",
            )
        own = next((row for row in idle if row.owner == owner), None)
        row = own or next((row for row in idle if row.owner is None), idle[0])
        if own is None:
            row.owner, row.known = owner, []
        self._rows.remove(row)
        self._rows.append(row)
        return row

    @torch.inference_mode()
    def _begin(self, owner: int, request: Request) -> Writing:
        row, prompt = self._row_of(owner), list(request.prompt)
        shared = shared_tokens(row.known, prompt)
        row.known = row.known[:shared]
        cache_LP2H = self.slots.cache_LP2H[:, row.start : row.start + self.row_tokens]
        hidden_1D = extend(self.forward, prompt[shared:], shared, cache_LP2H)
        row.known = prompt
        (token,) = first_tokens(self.forward, hidden_1D, [request], self.slots.unknown)
        writing = Writing(request, row, [token])
        if token in request.stops or request.decoding.max_new_tokens == 1:
            writing.is_done = True
        else:
            entering = Entering(request, row.start, token)
            self.slots.fill([len(self._writing)], [entering], [row.start + len(prompt)])
            self._writing.append(writing)
        return writing

    @torch.inference_mode()
    def _advance(self) -> None:
        """Let every reply have its next token."""
        num = len(self._writing)
        if self.slots.records:
            # Rounded up to a power of two, so that few sizes are recorded.
            num = min(1 << (num - 1).bit_length(), self.slots.num_slots)
        self.slots.advance(num, Kind.of([writing.request for writing in self._writing]))
        tokens, alive = self.slots.said_2B[:, : len(self._writing)].tolist()
        ended = []
        for writing, token, goes_on in zip(self._writing, tokens, alive, strict=True):
            writing.said.append(token)
            writing.is_done = not goes_on
            if writing.is_done:
                ended.append(writing)
        for writing in ended:
            self._end(writing)

    @torch.inference_mode()
    def _end(self, writing: Writing) -> None:
        """Free the slot of a reply, if it still has one."""
        slot = next((place for place, one in enumerate(self._writing) if one is writing), None)
        if slot is None:
            return
        writing.is_done = True
        # The last token has been generated, but not been read by the model.
        writing.row.known = [*writing.request.prompt, *writing.said[:-1]]
        last = self._writing.pop()
        if last is not writing:
            self.slots.move([len(self._writing)], [slot])
            self._writing[slot] = last
        self.slots.leave(len(self._writing), self._spare + len(self._writing))


def shared_tokens(known: Sequence[int], prompt: Sequence[int]) -> int:
    """Return how many tokens of a prompt are cached; its last one is always computed, since its output is needed."""
    pairs = zip(known, prompt[:-1], strict=False)
    differs = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
    return min(len(known), len(prompt) - 1) if differs is None else differs
