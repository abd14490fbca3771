"""Numbers arrive as they are, whatever the device does meanwhile."""

import numpy as np
import pytest
import torch

from falconer.model.generate.transfer import on_device, on_host


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_numbers_arrive_in_their_shape_and_type(device):
    where = torch.device(device)
    for numbers, dtype in (([3, 2**40], torch.int64), ([[1, 2], [3, 4]], torch.int64), ([0.1], torch.float64)):
        found = on_device(numbers, where, dtype)
        assert found.device.type == device and found.dtype == dtype and found.tolist() == numbers
    assert on_device(np.arange(3), where).tolist() == [0, 1, 2]


@pytest.mark.gpu
def test_a_copy_does_not_wait_and_is_not_overwritten():
    where = torch.device("cuda")
    large = torch.randn(8192, 8192, device=where)
    large @ large
    torch.cuda.synchronize()
    done = torch.cuda.Event()
    for _ in range(20):
        large @ large
    found = [on_device([number] * 100, where) for number in range(200)]
    done.record()
    assert not done.query(), "the products are still being computed"
    assert [one.unique().tolist() for one in found] == [[number] for number in range(200)]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_results_come_back_as_they_are(device):
    results = [torch.full((3, 2), float(number), device=device) for number in range(50)]
    waiting = [on_host(one) for one in results]
    assert [wait().tolist() for wait in waiting] == [one.tolist() for one in results]


@pytest.mark.gpu
def test_a_result_is_there_before_what_was_launched_later():
    large = torch.randn(8192, 8192, device="cuda")
    large @ large
    torch.cuda.synchronize()
    wait = on_host(large[:2, :2])
    done = torch.cuda.Event()
    for _ in range(20):
        large @ large
    done.record()
    found = wait()
    assert not done.query(), "the products are still being computed"
    assert found.tolist() == large[:2, :2].tolist()
