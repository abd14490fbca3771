"""The keys and values of the running batch on the generic path: rows of unlike length, padded on the left.

transformers' own cache copies everything with each token. Here each layer has room for further rows and tokens: a step
writes one token, a row that joins is copied to the end, the last row takes the place of one that leaves, and padding
that no row needs any more is only skipped. So nothing is half done if memory runs out: a layer either has its room or
stays as it is.

    storage of a layer        view: what the model sees
                              skipped  [start      tokens      end)  room
    row 0                     ........ PPPPPPPPkkkkkkkkkkkkkkkkkkkk  ....
    row 1                     ........ kkkkkkkkkkkkkkkkkkkkkkkkkkkk  ....
    room for rows             ...........................................

Shapes: B rows, N key/value heads, T tokens, H head size.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

# Tokens that a layer has room for when it is made or grows.
ROOM = 64

# By layer: keys and values [1, N, T, H] of one row.
Row = list[tuple[torch.Tensor, torch.Tensor]]


class Layer(DynamicLayer):
    """One layer's keys and values, a view into a larger storage."""

    def __init__(self) -> None:
        super().__init__()
        self._storages: tuple[torch.Tensor, ...] = ()
        self.num_rows, self._start, self._end = 0, 0, 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append tokens to all rows; see `DynamicLayer.update`."""
        num = key_states.shape[2]
        self.reserve(len(key_states), self.width, num, (key_states, value_states))
        self.num_rows, self._end = len(key_states), self._end + num
        for storage, states in zip(self._storages, (key_states, value_states), strict=True):
            storage[: self.num_rows, :, self._end - num : self._end] = states
        return self._view()

    @property
    def width(self) -> int:
        """Tokens of the longest row."""
        return self._end - self._start

    def reserve(self, num_rows: int, width: int, more: int, like: Sequence[torch.Tensor]) -> None:
        """Have room for rows of `width` tokens that get `more`; what there is stays the same.

        Args:
            like: keys and values of the same heads, data type and device.
        """
        sizes = [storage.shape[:3] for storage in self._storages]
        if sizes and num_rows <= sizes[0][0] and width <= self._end and self._end + more <= sizes[0][2]:
            return
        # A power of two, so that a batch that grows row by row is rarely copied.
        rows, width = 1 << (max(num_rows, self.num_rows) - 1).bit_length(), max(width, self.width)
        storages = []
        for number, one in enumerate(like):
            storage = one.new_zeros(rows, one.shape[1], width + more + ROOM, one.shape[3])
            if self._storages:
                storage[: self.num_rows, :, width - self.width : width] = self.rows()[number]
            storages.append(storage)
        self._storages, self._start, self._end = tuple(storages), width - self.width, width
        self.is_initialized, self.dtype, self.device = True, like[0].dtype, like[0].device
        self._view()

    def rows(self, start: int = 0) -> tuple[torch.Tensor, ...]:
        """Return keys and values [B, N, T, H] from a token on."""
        return tuple(one[: self.num_rows, :, self._start + start : self._end] for one in self._storages)

    def append(self, rows: Sequence[torch.Tensor]) -> None:
        """Append rows for which there is room.

        Args:
            rows: their keys and values [B, N, T, H], which end where the others end.
        """
        num, tokens = len(rows[0]), rows[0].shape[2]
        for storage, one in zip(self._storages, rows, strict=True):
            storage[self.num_rows : self.num_rows + num, :, self._end - tokens : self._end] = one
        self.num_rows, self._start = self.num_rows + num, min(self._start, self._end - tokens)
        self._view()

    def select(self, rows: torch.Tensor) -> None:
        """Let the rows be copies of some of them, int64."""
        self.reserve(len(rows), self.width, 1, self.rows())
        for storage, kept in zip(self._storages, self.rows(), strict=True):
            storage[: len(rows), :, self._start : self._end] = kept[rows]
        self.num_rows = len(rows)
        self._view()

    def move(self, moves: Sequence[tuple[int, int]], num_rows: int) -> None:
        """Copy rows to the places of others, (from, to), and keep the first ones only."""
        self.num_rows = num_rows
        if moves:
            # One call for all of them, which takes no memory.
            targets = [storage[to] for storage in self._storages for _, to in moves]
            torch._foreach_copy_(targets, [storage[start] for storage in self._storages for start, _ in moves])
        self._view()

    def skip(self, tokens: int) -> None:
        """Skip tokens at the left, which are padding in every row."""
        self._start += tokens
        self._view()

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens."""
        self._end -= abs(tokens_to_remove)
        self._view()

    def _view(self) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys, self.values = self.rows()
        return self.keys, self.values


def new_cache(rows: Sequence[Row | None], width: int, more: int) -> DynamicCache:
    """Return a cache that begins with some rows, padded to `width`, and has room for `more` tokens.

    Args:
        rows: None for a row of padding alone; if there are others, width is that of the longest. The same object
            several times in a row is copied in one go.
    """
    runs = [list(run) for _, run in groupby(rows, key=id)]
    alike = [(run[0], len(run)) for run in runs]
    cache = DynamicCache()
    cache.layer_class_to_replicate = Layer
    example = next((row for row in rows if row is not None), None)
    for number, like in enumerate(example or ()):
        layer = Layer()
        layer.reserve(len(rows), width, more, like)
        for row, num in alike:
            parts = [one[:, :, :0] for one in like] if row is None else row[number]
            layer.append([one.expand(num, -1, -1, -1) for one in parts])
        cache.layers.append(layer)
    return cache


def layers_of(cache: Any) -> Iterator[Layer]:
    """Yield the layers of a cache."""
    for layer in cache.layers:
        assert isinstance(layer, Layer)
        yield layer


def width_of(cache: Any) -> int:
    """Return the tokens of the longest row."""
    return next(layers_of(cache)).width


def row_of(cache: Any, row: int, pads: int) -> Row:
    """Return a copy of a row without its padding."""
    found = []
    for layer in layers_of(cache):
        keys, values = (one[row : row + 1].clone() for one in layer.rows(pads))
        found.append((keys, values))
    return found


def merge(cache: Any, other: Any) -> None:
    """Append the rows of another cache to a cache.

    Raises:
        torch.OutOfMemoryError: there is no room; the cache has the same rows as before.
    """
    pairs = list(zip(layers_of(cache), layers_of(other), strict=True))
    for layer, more in pairs:
        layer.reserve(layer.num_rows + more.num_rows, more.width, 1, more.rows())
    # Nothing from here on takes memory.
    for layer, more in pairs:
        layer.append(more.rows())


def repeat(cache: Any, rows: Sequence[int]) -> None:
    """Append copies of some rows.

    Raises:
        torch.OutOfMemoryError: there is no room; the cache has the same rows as before.
    """
    for layer in layers_of(cache):
        layer.reserve(layer.num_rows + len(rows), layer.width, 1, layer.rows())
    for layer in layers_of(cache):
        for row in rows:
            layer.append([one[row : row + 1] for one in layer.rows()])


def select(cache: Any, rows: Sequence[int]) -> None:
    """Let the rows be copies of some of them, in this order."""
    for layer in layers_of(cache):
        layer.select(torch.tensor(rows, device=layer.device))


def filling(num_rows: int, gone: Sequence[int]) -> list[tuple[int, int]]:
    """Return which of the last rows take the places of those that are gone, as (from, to)."""
    left = num_rows - len(gone)
    return list(zip(sorted(set(range(left, num_rows)) - set(gone)), [row for row in gone if row < left], strict=True))


def fill(items: list[Any], gone: Sequence[int]) -> None:
    """Take items out of a list, the last ones taking their places as those of a cache do."""
    for start, to in filling(len(items), gone):
        items[to] = items[start]
    del items[len(items) - len(gone) :]


def remove(cache: Any, gone: Sequence[int]) -> None:
    """Remove some rows; the last ones take their places, see `filling`."""
    num_rows = next(layers_of(cache)).num_rows
    moves = filling(num_rows, gone)
    for layer in layers_of(cache):
        layer.move(moves, num_rows - len(gone))


def skip(cache: Any, width: int) -> None:
    """Leave out what is padding in every row, so that the longest row has `width` tokens."""
    for layer in layers_of(cache):
        layer.skip(layer.width - width)


def crop(cache: Any, width: int) -> None:
    """Remove the tokens after `width`, which a pass that broke off may have written to some layers."""
    for layer in layers_of(cache):
        layer.crop(layer.width - width)
