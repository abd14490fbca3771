"""Where blocks' inputs wait in lean memory: they come back as they were, each once."""

import pytest
import torch

from falconer.model.falcon.offload import HostStore


def test_on_the_cpu_the_tensors_themselves_wait():
    store, tensors = HostStore(None), [torch.randn(3, 4) for _ in range(3)]
    for number, tensor in enumerate(tensors):
        store.put(number, tensor)
    store.fetch(1)
    for number in (2, 1, 0):
        assert store.take(number) is tensors[number]
        with pytest.raises(KeyError):
            store.take(number)


def test_what_was_never_put_is_not_fetched():
    store = HostStore(None)
    store.fetch(-1)
    with pytest.raises(KeyError):
        store.take(-1)


@pytest.mark.gpu
def test_on_a_gpu_they_wait_in_pinned_host_memory_and_come_back_whole():
    device = torch.device("cuda")
    store = HostStore(torch.cuda.Stream(device))
    expected = [torch.randn(1000, 512, device=device).to(torch.bfloat16) for _ in range(4)]
    for number, tensor in enumerate(expected):
        # Written on the current stream just before: the copy has to wait for it.
        store.put(number, tensor * 2)
    assert len(store._host) == 4 and all(host.is_pinned() for host in store._host.values())
    for number in (3, 2, 1, 0):
        found = store.take(number)
        store.fetch(number - 1)
        assert found.is_cuda and torch.equal(found, expected[number] * 2)
    assert not store._host and not store._here
