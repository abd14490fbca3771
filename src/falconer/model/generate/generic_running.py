"""The running batch on the generic path: requests join and leave replies of any causal language model.

Rows share passes where the model supports it (`generic_pass.py` finds out), and rows of several adapters where PEFT
does (`row_adapters.py`). Otherwise each adapter, or each reply, has a pass of its own, and they take turns token by
token. Each reply depends on its request alone.

What a request left in the cache is kept, so that the next turn of its conversation only reads what is new.

Shapes: B rows, V vocabulary.
"""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import torch

from falconer.errors import FalconerError
from falconer.model.generate.finished import Finished, FinishedConversations, bytes_of
from falconer.model.generate.generic_choice import Choice
from falconer.model.generate.generic_pass import GenericPass, Way, constant_tokens
from falconer.model.generate.key_values import crop, fill, merge, new_cache, remove, repeat, row_of, skip, width_of
from falconer.model.limits import vocabulary_of
from falconer.model.request import Joining, Said, Writing
from falconer.model.row_adapters import RowAdapters

T = TypeVar("T")

# Tokens of a pass over prompts, including padding. The replies that are being generated wait for it.
PASS_TOKENS = 4096
# What users should know of ways that are slow.
SLOW: Mapping[Way, str] = MappingProxyType({
    "alone": "This model can't compute several replies in one pass, so they are generated one after the other.",
    "stepwise": "This model can't compute several replies in one pass, so they are generated one after the other.",
    "uncached": "This model has no cache to go on from, so each token computes the whole text again.",
})  # fmt: skip


@dataclass(slots=True, eq=False)
class Batch:
    """Rows that share passes.

    Args:
        ids: each row's prompt and reply; the model has read all but the last token.
        cache: of `key_values`; or the model's own for the only row, None if it has to read the whole text.
        choice: how the rows' next tokens are chosen; None after a row came or went.
    """

    way: Way
    rows: list[Writing]
    ids: list[list[int]]
    cache: Any = None
    choice: Choice | None = None

    @property
    def names(self) -> list[str | None]:
        """Each row's adapter."""
        return [row.joining.adapter for row in self.rows]


class GenericRunning:
    """See `running.Running`.

    Args:
        model: in evaluation mode; it must not change meanwhile.
        autocast: the dtype for `runtime.autocast`; None for the dtype of the weights.
        pad_id: any token that the model knows.
        unknown: tokens that are never generated, int64.
        num_slots: the maximum number of replies at the same time.
        num_conversations: the maximum number of finished conversations that are cached.
        most_bytes: the maximum size of their caches.

    Attributes:
        way: see `generic_pass.py`.
        why_apart: why rows of several adapters don't share passes; "" if they do.
    """

    def __init__(
        self, model: Any, autocast: torch.dtype | None, pad_id: int, unknown: torch.Tensor, *,
        num_slots: int, num_conversations: int, most_bytes: float,
    ) -> None:  # fmt: skip
        self.num_slots, self._unknown = num_slots, unknown
        self._adapters = RowAdapters(model)
        self._pass = GenericPass(model, autocast, pad_id, unknown.device)
        self._constant_tokens = constant_tokens(model.config)
        self._finished = FinishedConversations(num_conversations, most_bytes)
        self._batches: list[Batch] = []
        self._unreported: list[tuple[Writing, Said]] = []
        self.way, self.why_apart = self._pass.way(self._adapters, vocabulary_of(model.config))

    @property
    def num_running(self) -> int:
        """Replies that are being generated."""
        return sum(len(batch.rows) for batch in self._batches)

    @property
    def notes(self) -> tuple[str, ...]:
        """See `running.Running.notes`."""
        notes = [SLOW[self.way]] if self.way in SLOW else []
        if self.way == "batch" and self.why_apart:
            notes.append(f"Replies of different adapters are generated one adapter after the other: {self.why_apart}.")
        return tuple(notes)

    @torch.inference_mode()
    def join(self, asked: Sequence[Joining]) -> list[Writing]:
        """See `running.Running.join`."""
        if len(asked) > self.num_slots - self.num_running:
            raise FalconerError(
                f"{self.num_slots} replies are already being generated, which is the maximum.",
                "Wait until one of them is finished, or ask for more slots.",
            )
        replies = self._with_room(lambda: self._join(asked))
        self._unreported += [(reply, reply.said[0]) for reply in replies]
        return replies

    @torch.inference_mode()
    def step(self) -> list[tuple[Writing, Said]]:
        """See `running.Running.step`."""
        for batch in list(self._batches):
            self._unreported += self._with_room(lambda: self._advance(batch))  # noqa: B023  called here
        reported, self._unreported = self._unreported, []
        return reported

    @torch.inference_mode()
    def leave(self, writing: Writing) -> None:
        """See `running.Running.leave`."""
        writing.is_done = True
        for batch in self._batches:
            if any(row is writing for row in batch.rows):
                self._finish(batch)
        self._batches = [batch for batch in self._batches if batch.rows]

    def _join(self, asked: Sequence[Joining]) -> list[Writing]:
        replies = [Writing(joining, []) for joining in asked]
        try:
            for batch in [self._begin(way, group) for way, group in self._groups(replies)]:
                self._finish(batch)
                if batch.rows:
                    self._add(batch)
        except BaseException:
            for batch in self._batches:
                for row in [row for row, reply in enumerate(batch.rows) if reply in replies][::-1]:
                    self._remove(batch, row)
            self._batches = [batch for batch in self._batches if batch.rows]
            raise
        return replies

    def _groups(self, replies: Sequence[Writing]) -> Iterator[tuple[Way, list[Writing]]]:
        """Yield replies whose prompts are read in one pass: those of one adapter, if need be, with a like number of new
        tokens.
        """
        groups: dict[object, list[Writing]] = {}
        for reply in replies:
            prompt, adapter = reply.request.prompt, reply.joining.adapter
            if self._way_of(reply) != "batch":
                yield self._way_of(reply), [reply]
                continue
            new = len(prompt) - self._finished.longest(adapter, prompt)[0]
            # Each row reads as many tokens as the one with most, at most twice its own.
            width = 1 << (new - 1).bit_length()
            group = groups.setdefault((width, self.why_apart and adapter), [])
            group.append(reply)
            if (len(group) + 1) * width > PASS_TOKENS:
                yield "batch", groups.pop((width, self.why_apart and adapter))
        yield from (("batch", group) for group in groups.values())

    def _way_of(self, reply: Writing) -> Way:
        is_constant = self._constant_tokens is None or reply.request.num_tokens <= self._constant_tokens
        return self.way if is_constant else "uncached"

    def _begin(self, way: Way, replies: list[Writing]) -> Batch:
        """Read prompts, and choose the first tokens of their replies."""
        # Several replies to one prompt read it once.
        places: dict[object, int] = {}
        rows_of = [places.setdefault((reply.joining.adapter, *reply.request.prompt), len(places)) for reply in replies]
        twins = [] if way != "batch" else [at for at, row in enumerate(rows_of) if row in rows_of[:at]]
        others = [reply for at, reply in enumerate(replies) if at in twins]
        replies = [reply for at, reply in enumerate(replies) if at not in twins]
        batch = Batch(way, replies, [list(reply.request.prompt) for reply in replies])
        found = [self._finished.longest(reply.joining.adapter, reply.request.prompt) for reply in replies]
        if way == "batch":
            more = max(len(ids) - shared for ids, (shared, _) in zip(batch.ids, found, strict=True))
            cached = [max(0, len(ids) - more) for ids in batch.ids]
            rows = [
                [(keys[:, :, :num], values[:, :, :num]) for keys, values in one.cache] if one and num else None
                for num, (_, one) in zip(cached, found, strict=True)
            ]
            batch.cache = new_cache(rows, max(cached), more)
        elif way == "alone" and found[0][1]:
            cached, batch.cache = [found[0][0]], found[0][1].cache
        else:
            cached = [0]
        for reply, num, (_, one) in zip(replies, cached, found, strict=True):
            reply.num_cached = num
            if num and one:
                self._finished.use(one)
        logits_BV = self._read(batch, [ids[num:] for ids, num in zip(batch.ids, cached, strict=True)])
        if others:
            copied = [rows_of[at] for at in twins]
            repeat(batch.cache, copied)
            logits_BV = logits_BV[[*range(len(replies)), *copied]]
            for reply in others:
                reply.num_cached = len(reply.request.prompt) - 1
            batch.rows += others
            batch.ids += [list(reply.request.prompt) for reply in others]
        self._say(batch, logits_BV)
        return batch

    def _advance(self, batch: Batch) -> list[tuple[Writing, Said]]:
        """Give each row its next token; what is done leaves."""
        width = width_of(batch.cache) if batch.way == "batch" else 0
        try:
            has_read = batch.way == "batch" or batch.cache is not None
            logits_BV = self._read(batch, [ids[-1:] if has_read else ids for ids in batch.ids])
            self._say(batch, logits_BV)
        except BaseException:
            # Of what broke off half way, nothing is left: the rows are as they were before.
            if batch.way == "batch":
                crop(batch.cache, width)
            else:
                batch.cache = None
            raise
        said = [(row, row.said[-1]) for row in batch.rows]
        self._finish(batch)
        self._batches = [batch for batch in self._batches if batch.rows]
        return said

    def _read(self, batch: Batch, new: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the logits [B, V] after the new tokens of each row."""
        with self._adapters.of(batch.names) if self._is_mixed(batch) else self._adapters.only(batch.names[0]):
            if batch.way == "batch":
                return self._pass.batch(new, [len(ids) for ids in batch.ids], batch.cache)
            if batch.way == "uncached":
                return self._pass.uncached(batch.ids[0])
            logits_BV, batch.cache = self._pass.alone(new[0], batch.cache)
            return logits_BV

    def _is_mixed(self, batch: Batch) -> bool:
        return batch.way == "batch" and not self.why_apart

    def _say(self, batch: Batch, logits_BV: torch.Tensor) -> None:
        """Choose the next token of each row."""
        if batch.choice is None:
            batch.choice = Choice(batch.rows, logits_BV.shape[1], self._unknown)
        for row, ids, said in zip(batch.rows, batch.ids, batch.choice.next(logits_BV), strict=True):
            row.said.append(said)
            ids.append(said.token)
            decoding = row.request.decoding
            row.is_done = said.token in row.request.stops or len(row.said) == decoding.max_new_tokens

    def _add(self, batch: Batch) -> None:
        """Add a batch, to another one if they can share passes."""
        for other in self._batches:
            if batch.way == other.way == "batch" and (self._is_mixed(batch) or batch.names[0] == other.names[0]):
                merge(other.cache, batch.cache)
                other.rows += batch.rows
                other.ids += batch.ids
                other.choice = None
                return
        self._batches.append(batch)

    def _finish(self, batch: Batch) -> None:
        """Take the rows that are done out of a batch, and keep their caches for the next turns."""
        for row in [row for row, reply in enumerate(batch.rows) if reply.is_done][::-1]:
            cache = batch.cache
            if batch.way == "batch":
                cache = None
                # Without room, it has to be computed again.
                with suppress(torch.OutOfMemoryError):
                    cache = row_of(batch.cache, row, width_of(batch.cache) - (len(batch.ids[row]) - 1))
            if cache is not None and batch.way != "stepwise":
                adapter, can_be_cut = batch.names[row], batch.way == "batch"
                self._finished.keep(Finished(adapter, batch.ids[row][:-1], cache, can_be_cut, bytes_of(cache)))
            self._remove(batch, row)

    def _remove(self, batch: Batch, row: int) -> None:
        """Take a row out of a batch; the last one takes its place."""
        fill(batch.rows, [row])
        fill(batch.ids, [row])
        batch.choice = None
        if batch.way == "batch":
            remove(batch.cache, [row])
            if batch.rows:
                skip(batch.cache, max(map(len, batch.ids)) - 1)

    def _with_room(self, step: Callable[[], T]) -> T:
        """Do a step; if memory is short, without what is only cached for later.

        Raises:
            torch.OutOfMemoryError: there is no room even so; nothing has changed.
        """
        if len(self._finished):
            with suppress(torch.OutOfMemoryError):
                return step()
            # After the error is gone, whose traceback has references to the tensors that are to be freed.
            self._finished.clear()
            gc.collect()
            if self._unknown.device.type == "cuda":
                torch.cuda.empty_cache()
        return step()
