"""The state that an engine owns between calls: paths, prefix caches, recorded steps, batch sizes.

Everything is created when it is first needed. State that depends on the adapters exists once for enabled and once for
disabled adapters.
"""

import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch

from falconer import runtime
from falconer.errors import FalconerError
from falconer.kernels.formats import NF4_ROWS
from falconer.model.falcon.adapters import adapter_states
from falconer.model.falcon.four_bit import Products, choose_products, inference_path
from falconer.model.falcon.infer_pass import Forward
from falconer.model.falcon.layout import why_generic
from falconer.model.falcon.train_pass import FastPath
from falconer.model.generate.fast_running import FastRunning
from falconer.model.generate.generic import GenericReplies
from falconer.model.generate.generic_running import GenericRunning
from falconer.model.generate.running import Running
from falconer.model.lora import without_adapter
from falconer.model.output_head import Head, head_of

T = TypeVar("T")

# Maximum share of free memory for the caches of conversations.
MOST_OF_FREE = 0.25
# Conversations that a running batch keeps in its cache for each of its slots.
ROWS_OF_A_SLOT = 4
# What does not fit after so many halvings will never fit.
MOST_HALVINGS = 16


@dataclass(slots=True)
class Side:
    """The state for one setting of the adapters.

    Args:
        adapters: their states, see `adapter_states`; where they change, nothing of this is of use any more.
        forwards: by the path that they compute with.
    """

    adapters: list[tuple[object, ...]]
    forwards: dict[FastPath, Forward] = field(default_factory=dict)
    pool: FastRunning | None = None
    generic: GenericReplies | None = None


@dataclass(slots=True)
class Kept:
    """The state of an engine; see the docstring of the module.

    Args:
        model: in evaluation mode.
        autocast: the dtype for `runtime.autocast`; None for the dtype of the weights.
        unknown: tokens that are never generated, int64, on the model's device.
        pad_id: any token that the model knows.
        max_tokens: of a conversation, including its last reply.
        num_conversations: the maximum number of conversations that are cached.
    """

    model: Any
    autocast: torch.dtype | None
    unknown: torch.Tensor
    pad_id: int
    max_tokens: int
    num_conversations: int
    lock: Any = field(default_factory=threading.RLock)
    notes: list[str] = field(default_factory=list)
    on_note: Callable[[str], None] | None = None
    is_closed: bool = False
    _owners: int = 0
    _heads: list[Head | None] = field(default_factory=list)
    _products: dict[bool, Products] = field(default_factory=dict)
    _paths: dict[tuple[bool, bool], FastPath] = field(default_factory=dict)
    _sides: dict[bool, Side] = field(default_factory=dict)
    _weights: list[tuple[int, int]] = field(default_factory=list)
    # Kept alive, so that no weights that come later have the address of others before.
    _storages: list[torch.UntypedStorage] = field(default_factory=list)
    _halvings: dict[str, int] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.unknown.device

    def close(self) -> None:
        """Free everything; later calls raise RuntimeError."""
        with self.lock:
            self.is_closed = True
            for owned in (self._products, self._paths, self._sides, self._weights, self._storages):
                owned.clear()
        self._free()

    def check_open(self) -> None:
        """Check that the engine is not closed.

        Raises:
            RuntimeError: the engine is closed.
        """
        if self.is_closed:
            raise RuntimeError("The engine is closed.")

    def step(self, step: Callable[[], T]) -> T:
        """Do a step of a conversation or of the running batch, while no other thread does one.

        Raises:
            FalconerError: memory has no room for it.
        """
        with suppress(torch.OutOfMemoryError), self.lock:
            self.check_open()
            return step()
        raise self.out_of_memory("conversation", "a reply")

    def new_owner(self) -> int:
        """Return the number of a new conversation."""
        with self.lock:
            self._owners += 1
            return self._owners

    def end(self, owner: int) -> None:
        """End the reply of a conversation that is still being written, and give its caches back."""
        with self.lock:
            for side in self._sides.values():
                if side.pool:
                    side.pool.end(owner)
            self.forget(owner)

    def forget(self, owner: int) -> None:
        """Give the caches of a conversation back. May be called at any time, also by the garbage collector."""
        for side in list(self._sides.values()):
            if side.pool:
                side.pool.forget(owner)
            if side.generic:
                side.generic.forget(owner)

    @contextmanager
    def state(self, is_base: bool) -> Iterator[None]:
        """Have the adapters on as they are, or off; meanwhile no other thread changes that."""
        with self.lock, without_adapter(self.model) if is_base else nullcontext():
            yield

    def head_on_targets(self) -> Head | None:
        """See `output_head.head_of`; determined once."""
        if not self._heads:
            self._heads.append(head_of(self.model))
        return self._heads[0]

    def products(self, *, is_few: bool) -> Products:
        """See `four_bit.choose_products`; chosen once."""
        if is_few not in self._products:
            is_cached = any(products.cache_weights for products in self._products.values())
            self._products[is_few] = choose_products(self.model, is_few=is_few, is_cached=is_cached)
        return self._products[is_few]

    def path(self, *, is_few: bool) -> FastPath:
        """Return the fast path for passes of few rows or of many; the same one if they multiply in the same way."""
        self.check_open()
        self._drop_stale()
        products = self.products(is_few=is_few)
        key = (products.cache_weights, products.fused)
        if key not in self._paths:
            self._paths[key] = inference_path(self.model, products)
        return self._paths[key]

    def forward(self, is_base: bool, *, is_few: bool) -> Forward:
        """Return the forward pass for few rows, or for many, with the adapters as they are.

        Raises:
            FalconerError: they have become some that the fast path does not know.
        """
        path, side = self.path(is_few=is_few), self._side(is_base)
        if path not in side.forwards:
            reason = why_generic(self.model)
            if reason:
                raise FalconerError(
                    f"The model has changed since this engine was opened; the fast path can't run it now: {reason}.",
                    "Open another engine for it.",
                )
            with self.state(is_base):
                side.forwards[path] = Forward(path, self.model.get_output_embeddings())
        return side.forwards[path]

    def pool(self, is_base: bool) -> FastRunning:
        """Return the rows and slots of the conversations on the fast path; fewer if memory is short."""
        forward, side = self.forward(is_base, is_few=True), self._side(is_base)
        if side.pool is None:
            num = min(self.num_conversations, self._room(forward))
            side.pool = FastRunning(forward, self.unknown, num_slots=num, num_rows=num, row_tokens=self.max_tokens)
        return side.pool

    def running(self, adapters: Sequence[str], num_slots: int, path: Literal["fast", "generic"]) -> Running:
        """Return a running batch in which each request has an adapter of its own; smaller if memory is short."""
        self.check_open()
        if path == "generic":
            return GenericRunning(
                self.model, self.autocast, self.pad_id, self.unknown, num_slots=num_slots,
                num_conversations=ROWS_OF_A_SLOT * num_slots,
                most_bytes=MOST_OF_FREE * runtime.free_gib(self.device) * 2**30,
            )  # fmt: skip
        forward = Forward(self.path(is_few=num_slots <= NF4_ROWS), self.model.get_output_embeddings(), adapters)
        num_slots, num_rows = slots_and_rows(num_slots, self._room(forward))
        return FastRunning(
            forward, self.unknown, num_slots=num_slots, num_rows=num_rows, row_tokens=self.max_tokens
        )  # fmt: skip

    def _room(self, forward: Forward) -> int:
        """Return how many conversations of the longest kind may be cached, at least 1."""
        return conversations_within(runtime.free_gib(self.device), self.max_tokens * forward.token_bytes)

    def generic(self, is_base: bool) -> GenericReplies:
        """Return the generic path."""
        self.check_open()
        side = self._side(is_base)
        if side.generic is None:
            side.generic = GenericReplies(
                self.model, self.autocast, self.pad_id, self.unknown, self.num_conversations, self.head_on_targets
            )
        return side.generic

    def share(self, what: str) -> float:
        """Return the current batch size for a kind of work as a share of the initial one, 0-1."""
        return 0.5 ** self._halvings.get(what, 0)

    def halve(self, what: str, *, is_one: bool, batch: str) -> None:
        """Halve the batch size for a kind of work, with a note the first time.

        Args:
            what: the kind of work.
            is_one: the batch that did not fit can't be divided.
            batch: what did not fit, in words.

        Raises:
            FalconerError: the batch can't be halved.
        """
        self._free()
        halvings = self._halvings.get(what, 0)
        if is_one or halvings == MOST_HALVINGS:
            raise self.out_of_memory(what, batch)
        self._halvings[what] = halvings + 1
        if not halvings:
            self.notes.append(f"out of memory ({what}): {batch} did not fit, so batches were halved until they did")
            if self.on_note:
                self.on_note(self.notes[-1])

    def out_of_memory(self, what: str, batch: str) -> FalconerError:
        """Free what nobody uses, and return the error that says what did not fit; see `halve`."""
        self._free()
        return FalconerError(
            f"Out of memory ({what}): {batch} did not fit on {runtime.device_name(self.device)}, and it can't "
            "be divided further.",
            "Stop other programs on this device, or set model.device=cpu.",
        )

    def _side(self, is_base: bool) -> Side:
        """Return the state for the adapters as they are now."""
        self._drop_stale()
        with self.state(is_base):
            adapters = adapter_states(self.model)
        side = self._sides.get(is_base)
        if side is None or side.adapters != adapters:
            side = self._sides[is_base] = Side(adapters)
        return side

    def _drop_stale(self) -> None:
        """Keep nothing of weights that have changed since, as training changes them."""
        parameters = list(self.model.parameters())
        # Tensors made in inference mode count no changes.
        weights = [(one.data_ptr(), 0 if one.is_inference() else one._version) for one in parameters]
        if weights != self._weights:
            self._paths.clear()
            self._sides.clear()
            self._weights, self._storages = weights, [one.untyped_storage() for one in parameters]

    def _free(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def conversations_within(free_gib: float, conversation_bytes: int) -> int:
    """Return how many conversations of the longest kind may be cached in free memory, at least 1."""
    return max(1, int(MOST_OF_FREE * free_gib * 2**30 / conversation_bytes))


def slots_and_rows(num_slots: int, room: int) -> tuple[int, int]:
    """Return the slots of a running batch, and how many conversations it caches.

    Args:
        num_slots: as asked for.
        room: how many conversations may be cached.
    """
    num_slots = min(num_slots, room)
    return num_slots, min(ROWS_OF_A_SLOT * num_slots, room)
