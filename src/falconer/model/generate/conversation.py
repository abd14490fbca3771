"""Conversations on the fast path: what was said before is in each one's own prefix cache, and all advance together.

Every conversation has a row of one cache. A reply's keys are written behind its prompt's, so the next turn finds both.
A reply that is being written has a slot; whoever asks for its next token lets all slots advance, and the others' tokens
wait until they are asked for. So the recorded step is shared, by conversations one after the other and by those at
once.

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
        owner: whose it is; None: nobody's.
        known: the tokens whose keys and values are in it, from its beginning on.
    """

    start: int
    owner: int | None = None
    known: list[int] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Writing:
    """A reply that is being written.

    Args:
        said: its tokens so far.
        is_done: no more will come.
    """

    request: Request
    row: Row
    said: list[int]
    is_done: bool = False


class Pool:
    """The rows and slots of all conversations of one engine, with the adapters as they are.

    Args:
        unknown: tokens that are never chosen, int64.
        num_rows: conversations whose beginning stays known, and replies at once.
        row_tokens: tokens of the longest conversation, its last reply included.
    """

    def __init__(self, forward: Forward, unknown: torch.Tensor, num_rows: int, row_tokens: int) -> None:
        self.forward, self.row_tokens = forward, row_tokens
        # Behind the rows is a token for each slot without a reply, which writes too.
        self._spare = num_rows * row_tokens
        cache_LP2H = forward.new_cache(self._spare + num_rows)
        spare_B = torch.arange(self._spare, self._spare + num_rows, device=forward.path.device)
        self.slots = Slots(forward, cache_LP2H, cache_LP2H, spare_B, row_tokens, unknown)
        # The least recently used first.
        self._rows = deque(Row(number * row_tokens) for number in range(num_rows))
        self._writing: list[Writing] = []

    def stream(self, owner: int, request: Request) -> Generator[int, None, None]:
        """Yield a reply's tokens; what the row knows of the prompt's beginning is not computed again.

        Args:
            owner: the conversation; its reply before, if it is still being written, ends there.

        Raises:
            FalconerError: as many replies as there are rows are being written.
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
        """Give a conversation's row back. May be called at any time, also by the garbage collector."""
        for row in list(self._rows):
            if row.owner == owner:
                row.owner, row.known = None, []

    def _row_of(self, owner: int) -> Row:
        self.end(owner)
        busy = {id(writing.row) for writing in self._writing}
        idle = [row for row in self._rows if id(row) not in busy]
        if not idle:
            raise FalconerError(
                f"{len(self._rows)} replies are being written, and there is room for no more at once.",
                "Let one of them end first, or open the engine with more conversations.",
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
            # Of few sizes, each of which is recorded once.
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
        """Free the slot of a reply; nothing where it has none any more."""
        slot = next((place for place, one in enumerate(self._writing) if one is writing), None)
        if slot is None:
            return
        writing.is_done = True
        # The last token was said, but not yet read.
        writing.row.known = [*writing.request.prompt, *writing.said[:-1]]
        last = self._writing.pop()
        if last is not writing:
            self.slots.move([len(self._writing)], [slot])
            self._writing[slot] = last
        self.slots.leave(len(self._writing), self._spare + len(self._writing))


def shared_tokens(known: Sequence[int], prompt: Sequence[int]) -> int:
    """Return how many tokens at a prompt's beginning are known; its last one is always computed, for its output."""
    pairs = zip(known, prompt[:-1], strict=False)
    differs = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
    return min(len(known), len(prompt) - 1) if differs is None else differs
