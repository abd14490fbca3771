"""Generating replies on the generic path, for any causal language model.

Where the model supports it, the prompts of a dialogue are computed once (`generic_branches.py`); otherwise
transformers' `generate` reads each of them. Tokens are chosen by the same `sampling.choose` as on the fast path, with
each row's own decoding: requests with different decoding share a batch here, too, and the sampled tokens of a request
depend on it alone.

Shapes: B batch, T tokens, V vocabulary.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer

from falconer import runtime
from falconer.model.generate.candidates import Row
from falconer.model.generate.generic_beams import branching_beams, reading_beams
from falconer.model.generate.generic_branches import branch_replies, branch_sums, one_by_one
from falconer.model.generate.generic_choice import Choice
from falconer.model.generate.generic_pass import constant_tokens
from falconer.model.generate.generic_prefix import PrefixPass
from falconer.model.generate.prefix import shared_tokens
from falconer.model.generate.repeats import Repeats
from falconer.model.generate.sampling import Kind, Rows, choose, without
from falconer.model.limits import vocabulary_of
from falconer.model.output_head import Head
from falconer.model.probe import how_to_batch, keeps_cache
from falconer.model.request import Joining, Request, Writing

# Returns the context in which the model runs, e.g. with its adapter disabled.
State = Callable[[], AbstractContextManager[object]]
T = TypeVar("T")


class GenericReplies:
    """Generates replies with a model's own forward pass.

    Args:
        autocast: the dtype for `runtime.autocast`; None for the dtype of the weights.
        pad_id: the token for left padding.
        unknown: tokens that are never generated, int64.
        num_conversations: the maximum number of cached conversations.
        head: returns the model's output head, see `output_head.head_of`.
    """

    def __init__(
        self, model: Any, autocast: torch.dtype | None, pad_id: int, unknown: torch.Tensor, num_conversations: int,
        head: Callable[[], Head | None],
    ) -> None:  # fmt: skip
        self._model, self._autocast, self._pad_id, self._unknown = model, autocast, pad_id, unknown
        self._device = unknown.device
        self._num_conversations = num_conversations
        # Results of `probe`: for batches with and without padding, and for the cache.
        self._ways: dict[bool, Literal["padded", "equal", "alone"]] = {}
        self._has_cache: bool | None = None
        self._head, self._constant_tokens = head, constant_tokens(model.config)
        self._branches: list[PrefixPass | None] = []
        # By conversation, the least recently used first: the tokens in its cache, and the cache.
        self._known: OrderedDict[int, tuple[list[int], DynamicCache]] = OrderedDict()
        # By conversation: the iterator of the reply that is being written.
        self._writing: dict[int, Generator[int, None, None]] = {}

    def decode(
        self, requests: Sequence[Request], batch_size: int, state: State
    ) -> Iterator[tuple[list[int], list[list[int]]]]:
        """Yield (indices of some requests, token ids of their replies), the longest prompts first.

        A stop token ends a reply and is its last token.

        Raises:
            torch.OutOfMemoryError: a batch does not fit; replies yielded before are valid.
        """
        # Beams are more rows than replies, and end together, so they are batches of their own.
        for has_beams in (False, True):
            numbers = [n for n, request in enumerate(requests) if (request.decoding.num_beams > 1) == has_beams]
            asked = [requests[number] for number in numbers]
            for places, replies in self._decode(asked, batch_size, state, has_beams=has_beams):
                yield [numbers[place] for place in places], replies

    def _decode(
        self, requests: Sequence[Request], batch_size: int, state: State, *, has_beams: bool
    ) -> Iterator[tuple[list[int], list[list[int]]]]:
        longest = max((request.num_tokens for request in requests), default=0)
        if requests and (forward := self._branching(longest, state)):
            write = branching_beams if has_beams else one_by_one
            yield from _in_state(branch_replies(forward, requests, self._unknown, batch_size, write), state)
            return
        if has_beams:
            for number, request in enumerate(requests):
                with state():
                    yield [number], self._read_beams(request)
            return
        with state():
            batches = self._batches(requests, batch_size)
        for chosen in batches:
            with state():
                found = self._whole([requests[index] for index in chosen])
            yield chosen, found

    def can_branch(self, longest: int, state: State) -> bool:
        """Return whether prompts can be computed once for several candidates of up to `longest` tokens with them."""
        return self._branching(longest, state) is not None

    def candidates(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[Row], end_id: int, share: float, state: State
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """See `branch_sums`; `can_branch` must return True for them."""
        forward = self._branching(0, state)
        assert forward is not None, "see can_branch"
        yield from _in_state(branch_sums(forward, prompts, rows, end_id, self._device, share), state)

    def _branching(self, longest: int, state: State) -> PrefixPass | None:
        """Return the pass in which texts branch off their common beginnings; None if the model does not support it."""
        if self._constant_tokens is not None and longest > self._constant_tokens:
            return None
        if not self._branches:
            with state():
                forward = PrefixPass(self._model, self._autocast, self._pad_id, self._device, self._head())
                works = forward.works(vocabulary_of(self._model.config))
            self._branches.append(forward if works else None)
        return self._branches[0]

    def stream(self, owner: int, request: Request, state: State) -> Generator[int, None, None]:
        """Yield a reply's tokens one by one; all at once if it is searched for with beams, or if the model has no cache
        of keys and values (Mamba, RWKV).

        Args:
            owner: the conversation, whose cache of the turn before is gone on from where it can be; its reply before,
                if it is still being written, ends there.
        """
        tokens = self._writing[owner] = self._tokens(owner, request, state)
        try:
            # Another reply of this conversation takes its cache over.
            while self._writing.get(owner) is tokens and (token := next(tokens, None)) is not None:
                yield token
        finally:
            if self._writing.get(owner) is tokens:
                del self._writing[owner]

    def forget(self, owner: int) -> None:
        """Give a conversation's cache back; a reply that is being written ends where it is."""
        self._writing.pop(owner, None)
        self._known.pop(owner, None)

    def _tokens(self, owner: int, request: Request, state: State) -> Generator[int, None, None]:
        if request.decoding.num_beams > 1:
            ((_, (reply,)),) = self.decode([request], 1, state)
            yield from reply
            return
        with state():
            if self._has_cache is None:
                self._has_cache = keeps_cache(self._model, request.prompt, self._autocast)
            if not self._has_cache:
                (reply,) = self._whole([request])
        if not self._has_cache:
            yield from reply
            return
        read, cache = self._cache_for(owner, request.prompt)
        ids, writing = list(request.prompt), Writing(Joining(request), [])
        choice: Choice | None = None
        for _ in range(request.decoding.max_new_tokens):
            # A pass that breaks off (out of memory, Ctrl-C) leaves the cache half written: nobody goes on from it.
            self._known.pop(owner, None)
            with state(), torch.inference_mode():
                logits_BV, cache = self._next_logits(ids[read:], cache)
                choice = choice or Choice([writing], logits_BV.shape[1], self._unknown)
                writing.said += choice.next(logits_BV)
            read, token = len(ids), writing.said[-1].token
            ids.append(token)
            self._keep(owner, ids[:read], cache)
            yield token
            if token in request.stops:
                return

    def _read_beams(self, request: Request) -> list[list[int]]:
        return reading_beams(self._model, self._autocast, [request], self._unknown)

    def _next_logits(self, ids: list[int], cache: Any) -> tuple[torch.Tensor, Any]:
        """Return the logits [1, V] after some more tokens, fp32, and the extended cache."""
        ids_BT = torch.tensor([ids], device=self._device)
        with runtime.autocast(self._device.type, self._autocast):
            output = self._model(input_ids=ids_BT, past_key_values=cache, use_cache=True)
        return output.logits[:, -1].float(), output.past_key_values

    def _cache_for(self, owner: int, prompt: Sequence[int]) -> tuple[int, Any]:
        """Return how many tokens of a prompt are cached, and the cache cut to these tokens."""
        known, cache = self._known.pop(owner, ([], None))
        shared = shared_tokens(known, prompt)
        if cache is None or shared == 0:
            return 0, None
        if shared < len(known):
            cache.crop(shared - len(known))
        return shared, cache

    def _keep(self, owner: int, read: list[int], cache: Any) -> None:
        # Other types of layers (a sliding window, a state) can't be cut to the common prefix of two prompts.
        if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
            return
        self._known[owner] = (read, cache)
        self._known.move_to_end(owner)
        if len(self._known) > self._num_conversations:
            self._known.popitem(last=False)

    @torch.inference_mode()
    def _whole(self, requests: Sequence[Request]) -> list[list[int]]:
        """Return the replies of a batch with `generate`, which supports every architecture's cache."""
        width = max(len(request.prompt) for request in requests)
        most = max(request.decoding.max_new_tokens for request in requests)
        # Generation continues at the right edge, so these are padded on the left, with a mask.
        num_pads = [width - len(request.prompt) for request in requests]
        rows = [[self._pad_id] * pads + list(one.prompt) for pads, one in zip(num_pads, requests, strict=True)]
        mask = [[0] * pads + [1] * (width - pads) for pads in num_pads]
        ids_BT = torch.tensor(rows, device=self._device)
        choice = _Choice(requests, width, self._unknown)
        with runtime.autocast(self._device.type, self._autocast):
            output = self._model.generate(
                input_ids=ids_BT, attention_mask=torch.tensor(mask, device=self._device), max_new_tokens=most,
                do_sample=False, eos_token_id=None, pad_token_id=self._pad_id,
                logits_processor=LogitsProcessorList([choice]), stopping_criteria=StoppingCriteriaList([_Ends(choice)]),
            )  # fmt: skip
        return [_cut(row, one) for row, one in zip(output[:, width:].tolist(), requests, strict=True)]

    def _batches(self, requests: Sequence[Request], batch_size: int) -> list[list[int]]:
        """Split the requests, the longest prompts first, into batches that don't change any reply."""
        lengths = [len(request.prompt) for request in requests]
        order = sorted(range(len(requests)), key=lambda index: -lengths[index])
        if min(batch_size, len(order)) < 2:
            return [[index] for index in order]
        shortest, width = requests[order[-1]].prompt, lengths[order[0]]
        has_pads = width > len(shortest)
        if has_pads not in self._ways:
            self._ways[has_pads] = how_to_batch(self._model, shortest, width, self._pad_id, self._autocast)
        way = self._ways[has_pads]
        if way == "alone":
            return [[index] for index in order]
        parts = [order]
        if way == "equal":
            parts = [list(group) for _, group in itertools.groupby(order, key=lambda index: lengths[index])]
        return [part[start : start + batch_size] for part in parts for start in range(0, len(part), batch_size)]


def _in_state(found: Iterator[T], state: State) -> Iterator[T]:
    """Yield what an iterator yields, which computes with the model in a state, and is outside of it in between."""
    while True:
        with state():
            some = next(found, None)
        if some is None:
            return
        yield some


class _Choice(LogitsProcessor):
    """Makes `generate` use the token that `choose` selects in each row.

    Args:
        width: tokens of the longest prompt.
    """

    def __init__(self, requests: Sequence[Request], width: int, unknown: torch.Tensor) -> None:
        self._requests, self._unknown, self.width = requests, unknown, width
        self._kind = Kind.of(requests)
        self.rows: Rows | None = None
        self._repeats: Repeats | None = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        said_BT = input_ids[:, self.width :]
        if self.rows is None or self._repeats is None:
            self.rows = Rows.of(self._requests, scores.shape[1], scores.device)
            self._repeats = Repeats.of(self._requests, [()] * len(scores), scores.shape[1], scores.device)
        else:
            self._repeats.add(said_BT[:, -1], self._kind)
        steps_B = torch.full((len(scores),), said_BT.shape[1], device=scores.device)
        scores = self._repeats.changed(without(scores, self._unknown), self.rows, self._kind, said_BT, steps_B)
        if not self._kind.samples:
            return scores
        tokens_B = choose(scores, self.rows, steps_B, self._kind)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens_B[:, None], 0.0)


class _Ends(StoppingCriteria):
    """Tells `generate` which rows are finished, by the stop tokens and the limit of each request."""

    def __init__(self, choice: _Choice) -> None:
        self._choice = choice

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        rows = self._choice.rows
        assert rows is not None, "a token was chosen"
        has_stopped_B = rows.stops_BV.gather(1, input_ids[:, -1:]).squeeze(1)
        return has_stopped_B | (input_ids.shape[1] - self._choice.width >= rows.limits_B)


def _cut(row: list[int], request: Request) -> list[int]:
    """Return a row up to its first stop token or its limit."""
    row = row[: request.decoding.max_new_tokens]
    stop = next((place for place, token in enumerate(row) if token in request.stops), len(row))
    return row[: stop + 1]
