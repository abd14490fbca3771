"""The cache of the running batch against lists of rows: joining, leaving, cutting, and memory that is short."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from falconer.model.generate import key_values
from falconer.model.generate.key_values import (
    Layer,
    crop,
    fill,
    merge,
    new_cache,
    remove,
    row_of,
    select,
    skip,
    width_of,
)

LAYERS, HEADS, SIZE = 2, 3, 2


def states(rows: int, tokens: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, HEADS, tokens, SIZE, generator=torch.Generator().manual_seed(seed))


def extend(cache: Any, rows: int, tokens: int, seed: int) -> torch.Tensor:
    """Write tokens to all layers as a model does, and return the keys of the first one."""
    for layer in range(LAYERS):
        keys = states(rows, tokens, seed + layer)
        found = cache.update(keys, -keys, layer)
        assert torch.equal(found[0][:, :, -tokens:], keys) and torch.equal(found[0], -found[1])
    return states(rows, tokens, seed)


def of_texts(lengths: list[int], seed: int) -> tuple[Any, list[torch.Tensor]]:
    cache = new_cache([None] * len(lengths), 0, 0)
    keys = extend(cache, len(lengths), max(lengths), seed)
    return cache, [row[:, row.shape[1] - length :] for row, length in zip(keys, lengths, strict=True)]


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.integers(1, 70)),
        st.tuples(st.just("join"), st.lists(st.integers(1, 90), min_size=1, max_size=3)),
        st.tuples(st.just("leave"), st.sets(st.integers(0, 5), min_size=1, max_size=5)),
        st.tuples(st.just("break"), st.integers(1, 70)),
        st.tuples(st.just("select"), st.lists(st.integers(0, 5), min_size=1, max_size=6)),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=3), events=EVENTS)
def test_rows_are_what_was_written_whoever_came_and_went(lengths: list[int], events: list[tuple[str, Any]]) -> None:
    cache, rows = of_texts(lengths, 0)
    for seed, (event, what) in enumerate(events, 1):
        if event == "step":
            more = extend(cache, len(rows), what, 10 * seed)
            rows = [torch.cat([row, new], dim=1) for row, new in zip(rows, more, strict=True)]
        elif event == "break":
            # A pass that broke off after the first layer. What it wrote may become a later row's padding.
            width, keys = width_of(cache), states(len(rows), what, 1)
            cache.update(keys, -keys, 0)
            crop(cache, width)
        elif event == "join":
            other, joined = of_texts(what, 10 * seed)
            merge(cache, other)
            rows += joined
        elif event == "select":
            chosen = [place % len(rows) for place in what]
            select(cache, chosen)
            rows = [rows[place] for place in chosen]
            skip(cache, max(row.shape[1] for row in rows))
        elif gone := sorted({place % len(rows) for place in what})[: len(rows) - 1]:
            stay = [row for place, row in enumerate(rows) if place not in gone]
            remove(cache, gone)
            fill(rows, gone)
            assert {id(row) for row in rows} == {id(row) for row in stay} and len(rows) == len(stay)
            skip(cache, max(row.shape[1] for row in rows))
        width = max(row.shape[1] for row in rows)
        assert width_of(cache) == cache.get_seq_length() == width
        for number, row in enumerate(rows):
            found = row_of(cache, number, width - row.shape[1])
            assert torch.equal(found[0][0][0], row) and torch.equal(found[0][1][0], -row)
        assert all(bool(layer.keys.isfinite().all()) and len(layer.keys) == len(rows) for layer in cache.layers)


def test_a_cache_begins_with_copies_of_rows() -> None:
    whole, _ = of_texts([4, 2], 1)
    first, second = row_of(whole, 0, 0), row_of(whole, 1, 2)
    cache = new_cache([second, None, first, first], 4, 3)
    for layer, source in zip(cache.layers, whole.layers, strict=True):
        assert torch.equal(layer.keys[0, :, 2:], source.keys[1, :, 2:])
        assert torch.equal(layer.keys[2], source.keys[0]) and torch.equal(layer.keys[3], source.keys[0])
        assert not layer.keys[1].any()
    extend(cache, 4, 3, 5)
    assert cache.get_seq_length() == 7


def test_tokens_are_not_copied_with_every_step() -> None:
    cache, _ = of_texts([5, 3], 1)
    places = set()
    for step in range(key_values.ROOM):
        extend(cache, 2, 1, step)
        places.add(cache.layers[0].keys.data_ptr())
    assert len(places) == 1


def test_a_row_without_memory_leaves_the_others_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, rows = of_texts([5, 3], 1)
    other, joined = of_texts([200], 2)
    reserve, calls = Layer.reserve, []

    def short(self: Layer, *given: Any) -> None:
        calls.append(self)
        if len(calls) == LAYERS:
            raise torch.OutOfMemoryError
        reserve(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Layer, "reserve", short)
        with pytest.raises(torch.OutOfMemoryError):
            merge(cache, other)
    assert [len(layer.keys) for layer in cache.layers] == [2, 2]
    assert all(torch.equal(row_of(cache, place, 5 - rows[place].shape[1])[0][0][0], rows[place]) for place in (0, 1))
    merge(cache, other)
    assert torch.equal(row_of(cache, 2, 0)[0][0][0], joined[0])
