"""The one way to ask a model: how likely replies are, which replies it gives, how it ranks candidates, a conversation.

An engine decides once which path runs, the fast one or the generic one, and says why. It owns everything that is kept
between questions (`kept.py`), and gives it back when it is closed. Requests that differ in everything share a batch,
and what is sampled depends on the request alone.

Conversations may be open at the same time, their iterators may be taken turn about, and each may be used by a thread of
its own: steps are taken one at a time. `likelihoods`, `tokens`, `replies` and `rank` belong to one thread.
"""

import copy
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, TypeVar
from weakref import finalize

import numpy as np
import torch

from falconer import runtime
from falconer.data.batch import collate, split_by_tokens
from falconer.data.encode import Encoder
from falconer.errors import FalconerError
from falconer.kernels.formats import NF4_ROWS
from falconer.model.falcon.attach import attached
from falconer.model.falcon.layout import backbone_of, why_generic
from falconer.model.generate.batch import decode
from falconer.model.generate.candidates import CandidateScores, Row, branch_scores
from falconer.model.generate.cut import Reply, finish, stop_tokens
from falconer.model.generate.prefix import pass_tokens
from falconer.model.generate.sampling import Decoding, Request
from falconer.model.kept import Kept
from falconer.model.likelihood import target_nll
from falconer.model.limits import check_token, context_of, vocabulary_of
from falconer.records import Example

__all__ = ["CandidateScores", "Conversation", "Decoding", "Engine", "Reply", "Request"]

# Tokens of a pass over whole sequences, pads included.
PASS_TOKENS = 8192

OnProgress = Callable[[int, int], None]
T = TypeVar("T")


class Engine:
    """A model that can be asked.

    Args:
        model: a causal language model, with or without adapter; it is put into evaluation mode.
        encoder: its prompts' encoder. It knows where replies end, how they are read as text, and how long they may be.
        precision: of the computation, as `runtime.pick_precision` gives it.
        path: "auto" takes the fast path where it knows the model, "generic" always the model's own forward pass.
        num_conversations: conversations whose beginning stays known, and whose replies are written at once, at most;
            on the fast path fewer where memory is short.
        unknown_ids: tokens that are never chosen; None: those that stand for no text of the encoder.

    Attributes:
        path: "fast" or "generic".
        why: the reason for it.
        stops: tokens at which a reply stops unless its request names others.
    """

    def __init__(
        self, model: Any, encoder: Encoder, precision: runtime.Precision, path: Literal["auto", "generic"] = "auto", *,
        num_conversations: int = 32, unknown_ids: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        self.model, self.encoder, self.precision = model.eval(), encoder, precision
        reason = "as configured" if path == "generic" else _why_not_fast(model, precision.autocast)
        self.path: Literal["fast", "generic"] = "generic" if reason else "fast"
        self.why = reason or "the model has Falcon-7B's layout"
        self.stops = tuple(stop_tokens(encoder))
        self._context = context_of(model.config)
        self._longest_talk = min(encoder.max_tokens, self._context or encoder.max_tokens)
        if unknown_ids is None:
            unknown_ids = encoder.unknown_ids(vocabulary_of(model.config))
        device = next(model.parameters()).device
        self._kept = Kept(
            model, precision.autocast, torch.tensor(list(unknown_ids), dtype=torch.int64, device=device),
            encoder.end_id, self._longest_talk, num_conversations,
        )  # fmt: skip
        self._is_base = False

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give everything back but the model, which is as it was. Further questions raise RuntimeError."""
        self._kept.close()

    @property
    def base(self) -> "Engine":
        """The same engine with the adapter off; what both keep is one, and closing one closes both."""
        other = copy.copy(self)
        other._is_base = True
        return other

    @property
    def notes(self) -> tuple[str, ...]:
        """What its user should know: each thing once, in the order in which it happened."""
        return tuple(self._kept.notes)

    def on_note(self, tell: Callable[[str], None] | None) -> None:
        """Have each further note told as it comes."""
        self._kept.on_note = tell

    def how(self, num_rows: int = 64) -> str:
        """Return the path as a run's files name it, "falcon" or "generic", and how it computes or why it is taken.

        Args:
            num_rows: replies at once; 1 for a conversation.
        """
        if self.path == "generic":
            return f"generic: {self.why}"
        self._kept.check_open()
        return f"falcon: {self._kept.products(is_few=num_rows <= NF4_ROWS).why}"

    def finish(self, ids: Sequence[int]) -> Reply:
        """Turn a reply's token ids into text, cut where the reply ends."""
        return finish(ids, self.encoder)

    def likelihoods(self, examples: Sequence[Example], on_progress: OnProgress | None = None) -> list[np.ndarray]:
        """Return the negative log-likelihood of every target token of each example, in nats, float64 [its targets].

        Args:
            on_progress: called with (examples done, all of them).

        Raises:
            FalconerError: a token or a length that the model does not know, or an example that memory has no room for.
        """
        self._begin()
        lengths = [len(example.ids) for example in examples]
        for example in examples:
            where = f"Dialogue '{example.dialogue_id}'" if example.dialogue_id else "A candidate"
            self._check(example.ids, len(example.ids), where, self._context)
        found: list[np.ndarray] = [np.empty(0)] * len(examples)
        rest, done = sorted(range(len(examples)), key=lambda index: lengths[index]), 0
        while rest:
            group = rest
            try:
                for group in split_by_tokens(rest, lengths, self._pass_tokens()):
                    for index, values in zip(group, self._nll([examples[i] for i in group]), strict=True):
                        found[index] = values
                    done, rest = done + len(group), rest[len(group) :]
                    if on_progress:
                        on_progress(done, len(examples))
                continue
            except torch.OutOfMemoryError:
                pass
            # Behind the except clause: inside it, the error's frames still hold what is to be freed.
            self._kept.halve("likelihoods", is_one=len(group) == 1, batch=f"a batch of {len(group)}")
        return found

    def replies(self, requests: Sequence[Request], *, batch_size: int = 32) -> Iterator[tuple[int, Reply]]:
        """Yield (index of the request, its reply); see `tokens`."""
        for index, ids in self.tokens(requests, batch_size=batch_size):
            yield index, self.finish(ids)

    def tokens(self, requests: Sequence[Request], *, batch_size: int = 32) -> Iterator[tuple[int, list[int]]]:
        """Yield (index of the request, token ids of its reply), the longest prompts first; the fast path as they end.

        A stop token ends a reply and belongs to it. No reply depends on what else is asked for.

        Args:
            batch_size: replies at once. On the fast path, which computes a dialogue's prompts together, a GPU has room
                for more and takes what suits it.

        Raises:
            FalconerError: a token or a length that the model does not know, or a reply that does not fit into memory.
        """
        self._begin()
        asked = {index: self._prepared(request, self._context) for index, request in enumerate(requests)}
        while asked:
            indices = list(asked)
            try:
                for number, ids in self._some_tokens(list(asked.values()), batch_size):
                    del asked[indices[number]]
                    yield indices[number], ids
                continue
            except torch.OutOfMemoryError:
                pass
            size = min(self._batch_size(batch_size), len(asked))
            is_one = self.path == "generic" and size == 1
            # A GPU on the fast path takes as many at once as it chose to.
            size = len(asked) if self.path == "fast" and self._kept.device.type == "cuda" else size
            self._kept.halve("replies", is_one=is_one, batch=f"a batch of {size}")

    def rank(
        self, prompts: Sequence[Sequence[int]], candidates: Sequence[Sequence[Sequence[int]]],
        on_progress: OnProgress | None = None,
    ) -> list[CandidateScores]:  # fmt: skip
        """Score every candidate of every prompt: on the fast path behind its prompt, which is computed once for a
        dialogue, on the generic path as a whole sequence.

        Args:
            prompts: token ids that end with the opened reply, one list for each turn.
            candidates: for each prompt, the token ids of its candidates without end tokens; the end token counts too.
            on_progress: called with (candidates done, all of them).

        Raises:
            FalconerError: a token or a length that the model does not know, or candidates that do not fit into memory.
            ValueError: a prompt is empty, or there are not as many lists of candidates as prompts.
        """
        self._begin()
        if len(prompts) != len(candidates) or not all(len(prompt) for prompt in prompts):
            raise ValueError("each prompt has at least one token, and a list of candidates of its own")
        rows = [(number, reply) for number, replies in enumerate(candidates) for reply in replies]
        for prompt in prompts:
            self._check(prompt, len(prompt), "A prompt", self._context)
        for number, reply in rows:
            self._check(reply, len(prompts[number]) + len(reply) + 1, "A candidate", self._context)
        if self.path == "generic":
            examples = [_example(prompts[number], reply, self.encoder.end_id) for number, reply in rows]
            sums = np.array([-values.sum() for values in self.likelihoods(examples, on_progress)])
        else:
            sums = self._branch_sums(prompts, rows, on_progress)
        counts = np.array([len(reply) + 1 for _, reply in rows], dtype=np.int64)
        borders = np.cumsum([0, *(len(replies) for replies in candidates)])
        pairs = zip(borders[:-1], borders[1:], strict=True)
        return [CandidateScores(sums[start:end], counts[start:end]) for start, end in pairs]

    def conversation(self) -> "Conversation":
        """Return a conversation with a prefix cache of its own, which it gives back when it is closed or forgotten."""
        self._kept.check_open()
        return Conversation(self)

    def _stream(self, owner: int, request: Request) -> Generator[int, None, None]:
        """Yield the tokens of a conversation's reply, each step under the lock."""
        kept = self._kept
        self._begin()
        request = self._prepared(request, self._longest_talk)

        def begin() -> Generator[int, None, None]:
            if self.path == "generic":
                return kept.generic(self._is_base).stream(owner, request, lambda: kept.state(self._is_base))
            return kept.pool(self._is_base).stream(owner, request)

        tokens = self._step(begin)
        try:
            while (token := self._step(lambda: next(tokens, None))) is not None:
                yield token
        finally:
            with kept.lock:
                tokens.close()

    def _step(self, step: Callable[[], T]) -> T:
        """Do a step of a conversation.

        Raises:
            FalconerError: memory has no room for it.
        """
        with suppress(torch.OutOfMemoryError), self._kept.lock:
            self._kept.check_open()
            return step()
        raise self._kept.out_of_memory("conversation", "a reply")

    def _begin(self) -> None:
        self._kept.check_open()
        self.model.eval()

    def _prepared(self, request: Request, most: int | None) -> Request:
        """Return a request with stop tokens; refuse what the model can't read."""
        self._check(request.prompt, request.num_tokens, "The conversation, with its reply,", most)
        if request.decoding.stops is not None:
            self._check(request.decoding.stops, 0, "A list of stop tokens", most)
            return request
        return replace(request, decoding=replace(request.decoding, stops=self.stops))

    def _check(self, ids: Sequence[int] | np.ndarray, num_tokens: int, where: str, most: int | None) -> None:
        for extreme in (np.min(ids), np.max(ids)) if len(ids) else ():
            check_token(int(extreme), self.model.config, where)
        if most and num_tokens > most:
            raise FalconerError(
                f"{where} takes {num_tokens:,} tokens, {num_tokens - most:,} more than can be read at once ({most:,}).",
                "Shorten it, or ask for a shorter reply.",
            )

    def _batch_size(self, batch_size: int) -> int:
        return max(1, int(self._kept.share("replies") * batch_size))

    def _some_tokens(self, requests: Sequence[Request], batch_size: int) -> Iterator[tuple[int, list[int]]]:
        """Yield (place among these requests, token ids of the reply).

        Raises:
            torch.OutOfMemoryError: something did not fit; what was yielded before counts.
        """
        kept = self._kept
        if self.path == "generic":
            generic, size = kept.generic(self._is_base), self._batch_size(batch_size)
            for places, replies in generic.decode(requests, size, lambda: kept.state(self._is_base)):
                yield from zip(places, replies, strict=True)
            return
        forward = kept.forward(self._is_base, is_few=min(len(requests), batch_size) <= NF4_ROWS)
        num_slots = batch_size if kept.device.type == "cpu" else None
        yield from decode(forward, requests, kept.unknown, num_slots, kept.share("replies"))

    @torch.inference_mode()
    def _nll(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """Return each example's negative log-likelihoods, float64 [its targets]."""
        kept, batch = self._kept, collate(examples, self.encoder.end_id)
        path = None if self.path == "generic" else kept.path(is_few=False)
        with kept.state(self._is_base), attached(self.model, path):
            head_on_targets = kept.head_on_targets()
            with runtime.autocast(kept.device.type, self.precision.autocast):
                nll = target_nll(self.model, batch, head_on_targets=head_on_targets)
        return np.split(nll.double().cpu().numpy(), np.cumsum([example.num_targets for example in examples])[:-1])

    def _pass_tokens(self) -> int:
        """Return the tokens of a pass over whole sequences: fewer where a GPU has little memory, or it ran out."""
        share = self._kept.share("likelihoods")
        if self.path == "generic":
            return max(1, int(share * PASS_TOKENS))
        return pass_tokens(self._kept.forward(self._is_base, is_few=False), PASS_TOKENS, share)

    def _branch_sums(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[Row], on_progress: OnProgress | None
    ) -> np.ndarray:
        sums, rest = np.zeros(len(rows)), list(range(len(rows)))
        forward, end_id = self._kept.forward(self._is_base, is_few=False), self.encoder.end_id
        while rest:
            # Only prompts that somebody still asks about.
            wanted = sorted({rows[index][0] for index in rest})
            places = {number: place for place, number in enumerate(wanted)}
            asked = [(places[rows[index][0]], rows[index][1]) for index in rest]
            shown = [prompts[number] for number in wanted]
            scored: set[int] = set()
            try:
                for at, values in branch_scores(forward, shown, asked, end_id, self._kept.share("candidates")):
                    indices = [rest[place] for place in at]
                    sums[indices] = values
                    scored.update(indices)
                    if on_progress:
                        on_progress(len(rows) - len(rest) + len(scored), len(rows))
            except torch.OutOfMemoryError:
                pass
            rest = [index for index in rest if index not in scored]
            if rest:
                self._kept.halve("candidates", is_one=False, batch=f"a batch of {len(asked):,}")
        return sums


class Conversation:
    """A conversation with a model: what was said before is computed once, as long as there is room.

    Its prefix cache is its own. It comes back when the conversation is closed, or when nobody has it any more.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._owner = engine._kept.new_owner()
        self._give_back = finalize(self, engine._kept.forget, self._owner)
        self._give_back.atexit = False

    def reply(self, request: Request) -> Generator[int, None, None]:
        """Yield a reply's token ids one by one, the token that stopped it last if there is one.

        A reply before that is still being written ends where it is. Models without a cache of keys and values to go on
        from (Mamba, RWKV) give all tokens at once.

        Raises:
            FalconerError: prompt and longest reply are more than the model reads at once, or as many replies as the
                engine has room for are being written.
        """
        yield from self._engine._stream(self._owner, request)

    def close(self) -> None:
        """Give the cache back; a reply that is being written ends where it is, and a further one begins anew."""
        self._engine._kept.end(self._owner)


def _why_not_fast(model: Any, autocast: torch.dtype | None) -> str:
    """Return why the fast path can't run a model in a precision; "" if it can."""
    reason = why_generic(model)
    if reason:
        return reason
    dtype = backbone_of(model).word_embeddings.weight.dtype
    if autocast not in (None, dtype):
        name, asked = (str(one).removeprefix("torch.") for one in (dtype, autocast))
        return f"it computes in the weights' {name}, not in {asked}"
    return ""


def _example(prompt: Sequence[int], reply: Sequence[int], end_id: int) -> Example:
    ids = np.array([*prompt, *reply, end_id], dtype=np.int32)
    return Example(ids, np.arange(len(ids)) >= len(prompt), "", (len(prompt),), (len(ids),), (0,))
