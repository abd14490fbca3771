"""Which finished conversation a prompt goes on from, and which one makes room."""

import torch
from transformers import DynamicCache, LlamaConfig

from falconer.model.generate.finished import Finished, FinishedConversations, bytes_of


def finished(read: list[int], adapter: str | None = None, *, can_be_cut: bool = True, size: int = 1) -> Finished:
    return Finished(adapter, read, None, can_be_cut, size)


def kept(*some: Finished, most: int = 9, most_bytes: float = 9) -> FinishedConversations:
    known = FinishedConversations(most, most_bytes)
    for one in some:
        known.keep(one)
    return known


def test_the_longest_common_beginning_of_the_same_adapter_is_found() -> None:
    short, long, other = finished([1, 2]), finished([1, 5, 6, 7]), finished([1, 5, 6, 7, 8], "ann")
    known = kept(short, long, other)
    assert known.longest(None, [1, 5, 6, 9, 9]) == (3, long)
    assert known.longest(None, [1, 2, 3]) == (2, short)
    assert known.longest("ann", [1, 5, 6, 7, 8]) == (4, other), "the last token is read in any case"
    assert known.longest("bob", [1, 5]) == known.longest(None, [2, 1]) == known.longest(None, [1]) == (0, None)


def test_what_can_not_be_cut_is_gone_on_from_as_a_whole_and_once() -> None:
    state = finished([1, 2, 3], can_be_cut=False)
    known = kept(state)
    assert known.longest(None, [1, 2, 9]) == known.longest(None, [1, 2, 3]) == (0, None)
    assert known.longest(None, [1, 2, 3, 4]) == (3, state)
    known.use(state)
    assert len(known) == 0


def test_the_least_recently_used_one_makes_room() -> None:
    first, second, third = finished([1]), finished([2]), finished([3])
    known = kept(first, second, most=2)
    known.use(first)
    known.keep(third)
    assert known._known == [first, third]
    assert len(kept(first, most=0)) == 0
    large = finished([4], size=8)
    known.keep(large)
    assert known._known == [third, large]
    known = kept(first, second, large, most_bytes=9)
    assert known._known == [second, large]
    assert len(kept(first, finished([5], size=10))) == 0
    known.clear()
    assert len(known) == 0


def test_a_conversation_takes_the_place_of_its_earlier_turns() -> None:
    known = kept(finished([1, 2]), finished([1, 2], "ann"), finished([1, 3]), finished([1, 2, 3]))
    assert [(one.adapter, one.read) for one in known._known] == [("ann", [1, 2]), (None, [1, 3]), (None, [1, 2, 3])]


def test_the_size_of_a_cache_is_that_of_its_tensors() -> None:
    tensor = torch.zeros(1, 2, 3, 4)
    cache = DynamicCache(config=LlamaConfig(num_hidden_layers=2))
    for layer in range(2):
        cache.update(tensor, tensor, layer)
    assert bytes_of(cache) == 4 * tensor.nbytes
    assert bytes_of(("state", [tensor, {0: tensor, 1: None}])) == 2 * tensor.nbytes
