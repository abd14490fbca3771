"""The running batch on the fast path, whose requests go on from what earlier ones have left in the cache.

The cache has rows, each for one conversation: the keys of a reply are stored after those of its prompt, so that the
next turn finds both. A prompt that begins as another row does starts with a copy of that beginning; so several replies
to one prompt, or conversations with one persona, compute it once. A reply that is being generated has a slot, and all
slots advance together, which shares the recorded steps.

Shapes: L layers, P tokens of the cache, G key/value heads, H head size, D hidden, S requests.
"""

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch

from falconer.errors import FalconerError
from falconer.model.falcon.infer_pass import Forward
from falconer.model.generate.fast_beams import decode_beams
from falconer.model.generate.prefix import Extension, pass_tokens, shared_tokens
from falconer.model.generate.prompt_pass import PromptPass
from falconer.model.generate.sampling import Kind
from falconer.model.generate.slots import Entering, Slots, first_said
from falconer.model.request import Joining, Request, Said, Writing

# Maximum number of tokens of a pass over prompts. The replies that are being generated wait for it.
PASS_TOKENS = MappingProxyType({"cuda": 8192, "cpu": 2048})
# A shorter beginning of another conversation is not worth a copy, nor the search for the longest one.
FEWEST_COPIED = 16


@dataclass(slots=True, eq=False)
class Row:
    """A conversation's part of the cache.

    Args:
        start: where it begins.
        known: the tokens whose keys and values it contains, from the start.
        beginning: the first of them.
        adapter: the number of the adapter that computed them.
        owner: the conversation that used it last; None for requests that belong to none.
        is_busy: a reply is being generated in it.
    """

    start: int
    known: list[int] = field(default_factory=list)
    beginning: list[int] = field(default_factory=list)
    adapter: int = 0
    owner: int | None = None
    is_busy: bool = False

    def keep(self, known: list[int]) -> None:
        """Set what the row contains."""
        self.known, self.beginning = known, known[:FEWEST_COPIED]


class FastRunning:
    """See `running.Running`.

    Args:
        unknown: tokens that are never generated, int64.
        num_slots: the maximum number of replies at the same time.
        num_rows: the maximum number of cached conversations, at least `num_slots`.
        row_tokens: tokens of the longest conversation, including its last reply.
    """

    def __init__(
        self, forward: Forward, unknown: torch.Tensor, *, num_slots: int, num_rows: int, row_tokens: int
    ) -> None:
        self.forward, self.row_tokens = forward, row_tokens
        # After the rows is a token for each slot without a reply, to which it writes.
        spare = num_rows * row_tokens
        cache_LPG2H = forward.new_cache(spare + num_slots + 1)
        self.prompt_pass = PromptPass(forward, cache_LPG2H, spare + num_slots)
        self._spare_B = torch.arange(spare, spare + num_slots, device=forward.path.device)
        self.slots = Slots(forward, cache_LPG2H, cache_LPG2H, self._spare_B, row_tokens, row_tokens, unknown)
        # The least recently used first.
        self._rows = deque(Row(number * row_tokens) for number in range(num_rows))
        self._adapters: dict[str | None, int] = {
            None: 0, **{name: number for number, name in enumerate(forward.adapters, 1)}
        }  # fmt: skip
        # By slot: the reply and its row.
        self._writing: list[tuple[Writing, Row]] = []
        # A GPU computes the next step while Python does what is to be done between two steps. On a CPU, this would only
        # delay the tokens of the step before.
        self.launches_ahead = forward.path.device.type == "cuda"
        # By slot: the replies of a step whose tokens have not been read yet.
        self._launched: list[Writing] | None = None
        self._unreported: list[tuple[Writing, Said]] = []

    @property
    def num_slots(self) -> int:
        """The maximum number of replies at the same time."""
        return self.slots.num_slots

    @property
    def num_running(self) -> int:
        """Replies that are being generated."""
        return len(self._writing)

    @property
    def notes(self) -> tuple[str, ...]:
        """See `running.Running.notes`."""
        return ()

    def join(self, asked: Sequence[Joining]) -> list[Writing]:
        """See `running.Running.join`."""
        return self._join(asked, None)

    @torch.inference_mode()
    def step(self) -> list[tuple[Writing, Said]]:
        """See `running.Running.step`."""
        if self._launched is None:
            self._launch()
        self._read()
        if self.launches_ahead:
            self._launch()
        reported, self._unreported = self._unreported, []
        return reported

    @torch.inference_mode()
    def leave(self, writing: Writing) -> None:
        """See `running.Running.leave`."""
        self._leave([writing])

    def stream(self, owner: int, request: Request) -> Generator[int, None, None]:
        """Yield a reply's tokens, in a forward pass without `adapters`; with beams, all of them at once.

        Args:
            owner: the conversation; if its previous reply is still being generated, it is stopped.

        Raises:
            FalconerError: all slots are used by replies that are being generated.
        """
        self.end(owner)
        if request.decoding.num_beams > 1:
            ((_, reply),) = decode_beams(self.forward, [request], self.slots.unknown, 1)
            yield from reply
            return
        (writing,) = self._join([Joining(request)], owner)
        try:
            place = 0
            while True:
                while place == len(writing.said) and not writing.is_done:
                    self.step()
                if place == len(writing.said):
                    return
                yield writing.said[place].token
                place += 1
        finally:
            self.leave(writing)

    def end(self, owner: int) -> None:
        """End the reply of a conversation that is still being written."""
        for writing in [one for one, row in self._writing if row.owner == owner]:
            self.leave(writing)

    def forget(self, owner: int) -> None:
        """Free a conversation's row. May be called at any time, also by the garbage collector."""
        for row in list(self._rows):
            if row.owner == owner:
                row.owner = None
                row.keep([])

    def _launch(self) -> None:
        """Start a step of all replies; a GPU does it while Python goes on."""
        if not self._writing:
            return
        num = len(self._writing)
        if self.slots.records:
            # Rounded up to a power of two, so that few sizes are recorded.
            num = min(1 << (num - 1).bit_length(), self.slots.num_slots)
        launched = [writing for writing, _ in self._writing]
        self.slots.advance(num, Kind.of([writing.request for writing in launched]))
        self._launched = launched

    def _read(self) -> None:
        """Wait for the step that was started, and give the replies its tokens."""
        launched, self._launched = self._launched or [], None
        if not launched:
            return
        over = []
        for writing, said, goes_on in zip(
            launched, *self.slots.said([writing.request for writing in launched]), strict=True
        ):
            # One that has left since gets no more tokens.
            if writing.is_done:
                continue
            writing.said.append(said)
            self._unreported.append((writing, said))
            if not goes_on:
                over.append(writing)
        self._leave(over)

    def _leave(self, over: Sequence[Writing]) -> None:
        """End replies; those that go on stay in the first slots."""
        for writing in over:
            writing.is_done = True
        slots = [slot for slot, (writing, _) in enumerate(self._writing) if writing.is_done]
        if not slots:
            return
        for writing, row in (self._writing[slot] for slot in slots):
            # The last token has been generated, but not been read by the model.
            row.keep([*writing.request.prompt, *(said.token for said in writing.said[:-1])])
            row.is_busy = False
        end = len(self._writing)
        num_left = end - len(slots)
        free = [slot for slot in slots if slot < num_left]
        behind = [slot for slot in range(num_left, end) if not self._writing[slot][0].is_done]
        self.slots.move(behind, free)
        for source, target in zip(behind, free, strict=True):
            self._writing[target] = self._writing[source]
        del self._writing[num_left:]
        self.slots.leave(slice(num_left, end), self._spare_B[num_left:end])

    @torch.inference_mode()
    def _join(self, asked: Sequence[Joining], owner: int | None) -> list[Writing]:
        if len(asked) > self.num_slots - self.num_running:
            raise FalconerError(
                f"{self.num_slots} replies are already being generated, which is the maximum.",
                "Wait until one of them is finished, or create the engine with a larger num_conversations.",
            )
        rows: list[Row] = []
        writings: list[Writing] = []
        most = pass_tokens(self.forward, PASS_TOKENS[self.forward.path.device.type], 1.0)
        try:
            while len(writings) < len(asked):
                # The next of them that fit into one pass; one whose prompt is being computed comes after it.
                some: list[tuple[Joining, Row, int]] = []
                pending: list[tuple[int, list[int]]] = []
                tokens = 0
                for joining in asked[len(writings) :]:
                    prompt, adapter = list(joining.request.prompt), self._adapters[joining.adapter]
                    if (adapter, prompt) in pending:
                        break
                    row, shared = self._row_for(prompt, adapter, owner)
                    tokens += len(prompt) - shared
                    some.append((joining, row, shared))
                    rows.append(row)
                    pending.append((adapter, prompt))
                    if tokens >= most:
                        break
                writings += self._begin(some)
        except BaseException:
            for row in rows:
                row.keep([])
                row.is_busy = False
            for writing in writings:
                self.leave(writing)
            raise
        self._unreported += [(writing, writing.said[0]) for writing in writings]
        return writings

    def _row_for(self, prompt: list[int], adapter: int, owner: int | None) -> tuple[Row, int]:
        """Return a row for a prompt, now busy, and how many of the prompt's tokens it contains."""
        beginning = prompt[:FEWEST_COPIED]
        idle = [row for row in self._rows if not row.is_busy]
        own = None if owner is None else next((row for row in idle if row.owner == owner), None)
        alike = [row for row in self._rows if row.adapter == adapter and (row is own or row.beginning == beginning)]
        found = [(shared_tokens(row.known, prompt), row) for row in alike]
        shared, source = max(found, key=lambda one: one[0], default=(0, None))
        if own is None and source and not source.is_busy and source.owner == owner and 0 < shared == len(source.known):
            own = source
        row = own or next((row for row in idle if not row.known), idle[0])
        if source is not None and row is not source:
            cache_LPG2H = self.slots.cache_LPG2H
            cache_LPG2H[:, row.start : row.start + shared] = cache_LPG2H[:, source.start : source.start + shared]
        row.adapter, row.owner, row.is_busy = adapter, owner, True
        row.keep(prompt[:shared])
        self._rows.remove(row)
        self._rows.append(row)
        return row, shared

    def _begin(self, some: Sequence[tuple[Joining, Row, int]]) -> list[Writing]:
        """Compute what is not cached of some prompts in one pass, and give their replies slots."""
        extensions = [
            Extension(list(joining.request.prompt[shared:]), row.start, shared, row.adapter)
            for joining, row, shared in some
        ]
        hidden_SD = self.prompt_pass(extensions)
        requests = [joining.request for joining, _, _ in some]
        firsts = first_said(self.forward, hidden_SD, requests, self.slots.unknown)
        writings, entering = [], []
        for (joining, row, shared), first in zip(some, firsts, strict=True):
            request = joining.request
            row.keep(list(request.prompt))
            writing = Writing(joining, [first], num_cached=shared)
            writings.append(writing)
            if first.token in request.stops or request.decoding.max_new_tokens == 1:
                writing.is_done, row.is_busy = True, False
            else:
                entering.append((writing, row, Entering(request, row.start, first.token, row.adapter)))
        if entering:
            places = range(len(self._writing), len(self._writing) + len(entering))
            tails = [row.start + len(row.known) for _, row, _ in entering]
            self.slots.fill(places, [one for _, _, one in entering], tails)
            self._writing += [(writing, row) for writing, row, _ in entering]
        return writings
