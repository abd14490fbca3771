"""The inference engine: likelihoods, generated replies, candidate ranking and conversations with a model.

An engine decides once which path runs, the fast or the generic one, and says why. It owns all caches (`kept.py`), and
frees them when it is closed. Requests with different decoding share a batch, and the sampled tokens of a request depend
on that request alone.

Several conversations may be open at the same time, their iterators may be advanced alternately, and each may be used by
a thread of its own: steps are taken one at a time. `likelihoods`, `tokens`, `replies` and `rank` must be called from
one thread.
"""

import copy
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, TypeVar
from weakref import finalize

import numpy as np
import torch

from falconer import runtime
from falconer.data.batch import collate, split_by_tokens
from falconer.data.encode import Encoder
from falconer.kernels.formats import NF4_ROWS
from falconer.model.falcon.adapters import adapter_names
from falconer.model.falcon.attach import attached
from falconer.model.falcon.layout import layout_of
from falconer.model.fast_support import why_not_fast
from falconer.model.generate.batch import decode
from falconer.model.generate.candidates import CandidateScores, Row, branch_scores
from falconer.model.generate.cut import Reply, finish, stop_tokens
from falconer.model.generate.prefix import pass_tokens
from falconer.model.kept import Kept
from falconer.model.likelihood import target_nll
from falconer.model.limits import Limits
from falconer.model.request import Decoding, Joining, Request, Said, Writing
from falconer.model.running_batch import RunningBatch
from falconer.records import Example

__all__ = [
    "CandidateScores", "Conversation", "Decoding", "Engine", "Joining", "Reply", "Request", "RunningBatch", "Said",
    "Writing",
]  # fmt: skip

# Tokens of a forward pass over whole sequences, including padding.
PASS_TOKENS = 8192

OnProgress = Callable[[int, int], None]
T = TypeVar("T")


class Engine:
    """Runs a model for inference. Close it, or use it as a context manager.

    Args:
        model: a causal language model, with or without adapter; it is set to evaluation mode.
        encoder: encodes prompts and decodes replies; it knows the end token and the longest prompt.
        precision: of the computation, from `runtime.pick_precision`.
        path: "auto" uses the fast path if it supports the model, "generic" always the model's own forward pass.
        num_conversations: the maximum number of conversations that are cached, and whose replies are generated at the
            same time; on the fast path fewer if memory is short.
        unknown_ids: tokens that are never generated; None: those that the encoder can't decode to text.

    Attributes:
        path: "fast" or "generic".
        why: the reason for it.
        stops: the stop tokens of requests that don't set their own.
    """

    def __init__(
        self, model: Any, encoder: Encoder, precision: runtime.Precision, path: Literal["auto", "generic"] = "auto", *,
        num_conversations: int = 32, unknown_ids: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        self.model, self.encoder, self.precision = model.eval(), encoder, precision
        reason = "as configured" if path == "generic" else why_not_fast(model, precision.autocast)
        self.path: Literal["fast", "generic"] = "generic" if reason else "fast"
        self.why = reason or layout_of(model.config).why_fast
        self.stops = tuple(stop_tokens(encoder))
        self._limits = Limits.of(model.config, encoder.max_tokens, self.stops)
        if unknown_ids is None:
            unknown_ids = encoder.unknown_ids(self._limits.vocabulary)
        device = next(model.parameters()).device
        self._kept = Kept(
            model, precision.autocast, torch.tensor(list(unknown_ids), dtype=torch.int64, device=device),
            encoder.end_id, self._limits.talk_tokens, num_conversations,
        )  # fmt: skip
        self._is_base = False

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free everything but the model, which is unchanged. Further calls raise RuntimeError."""
        self._kept.close()

    @property
    def base(self) -> "Engine":
        """The same engine with the adapter disabled. Both share their caches, and closing one closes both."""
        other = copy.copy(self)
        other._is_base = True
        return other

    @property
    def shares_prompts(self) -> bool:
        """Whether replies and candidates share the computation of their prompts."""
        return self.path == "fast" or self._can_branch(0)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, each one once, in the order in which they occurred."""
        return tuple(self._kept.notes)

    def on_note(self, tell: Callable[[str], None] | None) -> None:
        """Set a function that is called with each new note."""
        self._kept.on_note = tell

    def how(self, num_rows: int = 64) -> str:
        """Return the path as named in a run's files, "falcon" or "generic", and how it multiplies or why it is used.

        Args:
            num_rows: replies in a batch; 1 for a conversation.
        """
        if self.path == "generic":
            return f"generic: {self.why}"
        self._kept.check_open()
        return f"falcon: {self._kept.products(is_few=num_rows <= NF4_ROWS).why}"

    def finish(self, ids: Sequence[int]) -> Reply:
        """Decode a reply's token ids, and cut the text where the reply ends."""
        return finish(ids, self.encoder)

    def likelihoods(self, examples: Sequence[Example], on_progress: OnProgress | None = None) -> list[np.ndarray]:
        """Return the negative log-likelihood of every target token of each example, in nats, float64 [its targets].

        Args:
            on_progress: called with (examples done, total).

        Raises:
            FalconerError: an example has an unknown token, is longer than the model's context, or does not fit into
                memory.
        """
        self._begin()
        lengths = [len(example.ids) for example in examples]
        for example in examples:
            where = f"Dialogue '{example.dialogue_id}'" if example.dialogue_id else "A candidate"
            self._limits.check(example.ids, len(example.ids), where, self._limits.context)
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
            # After the except clause: inside it, the traceback still references the tensors to be freed.
            self._kept.halve("likelihoods", is_one=len(group) == 1, batch=f"a batch of {len(group)}")
        return found

    def replies(self, requests: Sequence[Request], *, batch_size: int = 32) -> Iterator[tuple[int, Reply]]:
        """Yield (index of the request, its reply); see `tokens`."""
        for index, ids in self.tokens(requests, batch_size=batch_size):
            yield index, self.finish(ids)

    def tokens(self, requests: Sequence[Request], *, batch_size: int = 32) -> Iterator[tuple[int, list[int]]]:
        """Yield (index of the request, token ids of its reply), the longest prompts first, as replies are finished.

        A stop token ends a reply and is its last token. A reply does not depend on the other requests.

        Args:
            batch_size: replies in a batch. On a GPU, the fast path chooses a larger batch that fits into memory.

        Raises:
            FalconerError: a request has an unknown token, is longer than the model's context, or does not fit into
                memory.
        """
        self._begin()
        asked = {index: self._limits.prepared(request, self._limits.context) for index, request in enumerate(requests)}
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
            # On a GPU, the fast path has chosen the batch size itself.
            size = len(asked) if self.path == "fast" and self._kept.device.type == "cuda" else size
            self._kept.halve("replies", is_one=is_one, batch=f"a batch of {size}")

    def rank(
        self, prompts: Sequence[Sequence[int]], candidates: Sequence[Sequence[Sequence[int]]],
        on_progress: OnProgress | None = None,
    ) -> list[CandidateScores]:  # fmt: skip
        """Return the log-likelihoods of all candidates of each prompt.

        The prompts of a dialogue are computed once. If the model's cache does not allow that, each candidate is
        computed with its prompt.

        Args:
            prompts: token ids that end with the opened reply, one list per turn.
            candidates: for each prompt, the token ids of its candidates without end tokens; the end token is scored,
                too.
            on_progress: called with (candidates done, total).

        Raises:
            FalconerError: a candidate has an unknown token, is longer than the model's context, or does not fit into
                memory.
            ValueError: a prompt is empty, or there are not as many lists of candidates as prompts.
        """
        self._begin()
        if len(prompts) != len(candidates) or not all(len(prompt) for prompt in prompts):
            raise ValueError("each prompt has at least one token, and a list of candidates of its own")
        rows = [(number, reply) for number, replies in enumerate(candidates) for reply in replies]
        for prompt in prompts:
            self._limits.check(prompt, len(prompt), "A prompt", self._limits.context)
        for number, reply in rows:
            self._limits.check(reply, len(prompts[number]) + len(reply) + 1, "A candidate", self._limits.context)
        longest = max((len(prompts[number]) + len(reply) + 1 for number, reply in rows), default=0)
        if self.path == "generic" and not self._can_branch(longest):
            examples = [_example(prompts[number], reply, self.encoder.end_id) for number, reply in rows]
            sums = np.array([-values.sum() for values in self.likelihoods(examples, on_progress)])
        else:
            sums = self._branch_sums(prompts, rows, on_progress)
        counts = np.array([len(reply) + 1 for _, reply in rows], dtype=np.int64)
        borders = np.cumsum([0, *(len(replies) for replies in candidates)])
        pairs = zip(borders[:-1], borders[1:], strict=True)
        return [CandidateScores(sums[start:end], counts[start:end]) for start, end in pairs]

    def conversation(self) -> "Conversation":
        """Return a conversation with its own prefix cache, which is freed when the conversation is closed."""
        self._kept.check_open()
        return Conversation(self)

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the adapters that are loaded on the base; see `lora.load_adapters`."""
        return adapter_names(self.model)

    def running(self, num_slots: int = 64) -> "RunningBatch":
        """Return a running batch, in which each request names its adapter.

        The model must not change while it is used. Only one thread may use it at a time.

        Args:
            num_slots: the maximum number of replies at the same time; on the fast path fewer if memory is short.

        Raises:
            FalconerError: there is not enough memory.
        """
        self._begin()
        with suppress(torch.OutOfMemoryError), self._kept.lock:
            running = self._kept.running(self.adapters, num_slots, self.path)
            return RunningBatch(self._kept, self._limits, running, self.adapters)
        raise self._kept.out_of_memory("running batch", f"a cache for {num_slots} replies")

    def _stream(self, owner: int, request: Request) -> Generator[int, None, None]:
        """Yield the tokens of a conversation's reply; each step holds the lock."""
        kept = self._kept
        self._begin()
        request = self._limits.prepared(request, self._limits.talk_tokens)

        def begin() -> Generator[int, None, None]:
            if self.path == "generic":
                return kept.generic(self._is_base).stream(owner, request, lambda: kept.state(self._is_base))
            return kept.pool(self._is_base).stream(owner, request)

        tokens = kept.step(begin)
        try:
            while (token := kept.step(lambda: next(tokens, None))) is not None:
                yield token
        finally:
            with kept.lock:
                tokens.close()

    def _begin(self) -> None:
        self._kept.check_open()
        self.model.eval()

    def _batch_size(self, batch_size: int) -> int:
        return max(1, int(self._kept.share("replies") * batch_size))

    def _some_tokens(self, requests: Sequence[Request], batch_size: int) -> Iterator[tuple[int, list[int]]]:
        """Yield (index among these requests, token ids of the reply).

        Raises:
            torch.OutOfMemoryError: a batch did not fit; replies yielded before are valid.
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
        """Return the tokens of a forward pass over whole sequences; fewer if memory is short or ran out before."""
        share = self._kept.share("likelihoods")
        if self.path == "generic":
            return max(1, int(share * PASS_TOKENS))
        return pass_tokens(self._kept.forward(self._is_base, is_few=False), PASS_TOKENS, share)

    def _branch_sums(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[Row], on_progress: OnProgress | None
    ) -> np.ndarray:
        sums, rest = np.zeros(len(rows)), list(range(len(rows)))
        while rest:
            # Only prompts with candidates that are not scored yet.
            wanted = sorted({rows[index][0] for index in rest})
            places = {number: place for place, number in enumerate(wanted)}
            asked = [(places[rows[index][0]], rows[index][1]) for index in rest]
            shown = [prompts[number] for number in wanted]
            scored: set[int] = set()
            try:
                for at, values in self._scored(shown, asked):
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

    def _can_branch(self, longest: int) -> bool:
        """Return whether the generic path computes prompts once for candidates of up to `longest` tokens with them."""
        kept = self._kept
        return kept.generic(self._is_base).can_branch(longest, lambda: kept.state(self._is_base))

    def _scored(self, prompts: Sequence[Sequence[int]], rows: Sequence[Row]) -> Iterator[tuple[list[int], np.ndarray]]:
        kept, end_id, share = self._kept, self.encoder.end_id, self._kept.share("candidates")
        if self.path == "generic":
            generic = kept.generic(self._is_base)
            return generic.candidates(prompts, rows, end_id, share, lambda: kept.state(self._is_base))
        return branch_scores(kept.forward(self._is_base, is_few=False), prompts, rows, end_id, share)


class Conversation:
    """A conversation with a model: earlier turns are not computed again, as long as they are cached.

    It has its own prefix cache, which is freed when it is closed or garbage-collected.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._owner = engine._kept.new_owner()
        self._free_cache = finalize(self, engine._kept.forget, self._owner)
        self._free_cache.atexit = False

    def reply(self, request: Request) -> Generator[int, None, None]:
        """Yield a reply's token ids one by one, including the stop token if there is one.

        An earlier reply that is still being generated is stopped. Models without a cache of keys and values (Mamba,
        RWKV) yield all tokens at once.

        Raises:
            FalconerError: prompt and longest reply exceed the context, or the engine's maximum number of replies is
                already being generated.
        """
        yield from self._engine._stream(self._owner, request)

    def close(self) -> None:
        """Free the cache. A reply that is being written ends there; a further one starts with an empty cache."""
        self._engine._kept.end(self._owner)


def _example(prompt: Sequence[int], reply: Sequence[int], end_id: int) -> Example:
    ids = np.array([*prompt, *reply, end_id], dtype=np.int32)
    return Example(ids, np.arange(len(ids)) >= len(prompt), "", (len(prompt),), (len(ids),), (0,))
