"""A recorded step does again what it did, on whatever its tensors hold then."""

import pytest
import torch

from falconer.model.falcon.graph import recorded


@pytest.mark.gpu
def test_a_recorded_step_is_replayed_on_what_its_tensors_hold():
    device = torch.device("cuda")
    x, y = torch.arange(4.0, device=device), torch.zeros(4, device=device)
    graph = recorded(lambda: y.add_(2 * x), device)
    # Twice before it is recorded, which itself does nothing.
    assert y.tolist() == [0, 4, 8, 12]
    x.fill_(1)
    graph.replay()
    assert y.tolist() == [2, 6, 10, 14]
