import pytest
import torch

from falconer.kernels import fused, reference
from kernel_rule import exactly, hold_to_rule


@pytest.mark.parametrize("vocab", [97, 4096, 10001])
@pytest.mark.parametrize("grad", [False, True])
def test_likelihood_and_gradient_in_place(place, vocab, grad):
    logits = 4 * place.random(5, vocab)
    labels = torch.tensor([0, vocab - 1, 3, vocab // 2, 50], device=place.device)
    ours, plain, exact = logits.clone(), logits.clone(), exactly(logits.clone())
    found = fused.cross_entropy_(ours, labels, grad)
    twin = reference.cross_entropy_(plain, labels, grad)
    hold_to_rule(found, twin, reference.cross_entropy_(exact, labels, grad))
    hold_to_rule(ours, plain, exact)
    if not grad:
        assert torch.equal(ours, logits), "without a gradient the logits stay"


def test_huge_logits_stay_finite(place):
    logits = torch.tensor([[-1e4, 0.0, 1e4], [1e4, 1e4, -1e4]]).to(place.device, place.dtype)
    nll = fused.cross_entropy_(logits, torch.tensor([2, 2], device=place.device), grad=True)
    assert nll[0] == 0 and abs(float(nll[1]) - 2e4) < 100
    assert torch.isfinite(logits.float()).all()
