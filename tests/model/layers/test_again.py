"""What is computed again: once for all that share it, and never from what has changed."""

import torch

from falconer.model.layers.again import Again, Shared, again_of, attach


def test_several_layers_compute_a_shared_input_once_and_the_last_one_frees_it() -> None:
    calls: list[int] = []
    shared = Shared()
    for _ in range(3):
        shared.wait()

    def compute() -> torch.Tensor:
        calls.append(1)
        return torch.ones(2)

    found = [shared.take(compute) for _ in range(3)]
    assert len(calls) == 1 and all(one is found[0] for one in found)
    shared.wait()
    assert shared.take(compute) is not found[0] and len(calls) == 2


def test_a_tensor_that_was_changed_is_stored_as_it_is() -> None:
    tensor = torch.zeros(2)
    assert again_of(tensor) is None
    again = Again(lambda x: 2 * x, torch.ones(2))
    assert again_of(attach(tensor, again)) is again
    tensor += 1
    assert again_of(tensor) is None
    assert again_of(tensor.view(2)) is None
