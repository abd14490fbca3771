import pytest
import torch
from torch.nn import functional as F

from falconer.kernels import fused, reference
from falconer.kernels.formats import Norm, Want
from kernel_rule import error, exactly, hold_operands, hold_to_rule

EXACT = Want.PLAIN
WANTS = [Want.PLAIN, Want.FP8, Want.BOTH]


@pytest.mark.parametrize("want", WANTS, ids=str)
@pytest.mark.parametrize("num_branches", [0, 2])
@pytest.mark.parametrize("shape", [(5, 64), (37, 320)])
def test_forward(place, want, num_branches, shape):
    hidden, *branches = (3 * place.random(*shape) + 1 for _ in range(1 + num_branches))
    norm = Norm(place.random(shape[1]), place.random(shape[1]), 1e-5)
    normed, out = fused.add_layer_norm(hidden, branches, norm, want)
    twin, twin_out = reference.add_layer_norm(hidden, branches, norm, want)
    exact, exact_out = reference.add_layer_norm(exactly(hidden), exactly(branches), exactly(norm), EXACT)
    hold_operands(out, twin_out, exact_out)
    for name in ("hidden", "mean", "rstd"):
        hold_to_rule(getattr(normed, name), getattr(twin, name), getattr(exact, name))


@pytest.mark.parametrize("want", WANTS, ids=str)
@pytest.mark.parametrize("num_branches", [0, 2])
def test_two_norms_of_one_input(place, want, num_branches):
    hidden, *branches = (3 * place.random(37, 320) + 1 for _ in range(1 + num_branches))
    norms = [Norm(place.random(320), place.random(320), 1e-5) for _ in range(2)]
    found = fused.add_layer_norms(hidden, branches, norms, want)
    apart = [fused.add_layer_norm(hidden, branches, norm, want) for norm in norms]
    exact = reference.add_layer_norms(exactly(hidden), exactly(branches), exactly(norms), EXACT)
    assert len(found) == 2 and found[0][0].hidden is found[1][0].hidden
    for (normed, out), (alone, alone_out), (_, exact_out), norm in zip(found, apart, exact, norms, strict=True):
        assert normed.norm is norm
        assert all(torch.equal(getattr(normed, name), getattr(alone, name)) for name in ("hidden", "mean", "rstd"))
        hold_operands(out, alone_out, exact_out)


@pytest.mark.parametrize("want", WANTS, ids=str)
@pytest.mark.parametrize("has_residual", [False, True])
def test_gradient_through_two_norms(place, want, has_residual):
    norms = [Norm(place.random(320), place.random(320), 1e-5) for _ in range(2)]
    (normed, _), _ = reference.add_layer_norms(place.random(19, 320), (), norms, EXACT)
    grads = [place.random(19, 320) for _ in range(2)]
    residual = place.random(19, 320) if has_residual else None
    arguments = (grads, normed, residual)
    exact = reference.layer_norm_grad(*exactly(arguments), EXACT, exactly(norms[1]))
    hold_operands(
        fused.layer_norm_grad(*arguments, want, norms[1]), reference.layer_norm_grad(*arguments, want, norms[1]), exact
    )
    # By torch: the sum of both outputs, each weighted by its gradient.
    x = normed.hidden.double().requires_grad_()
    outs = [F.layer_norm(x, (320,), *exactly((norm.weight, norm.bias)), norm.eps) for norm in norms]
    (expected,) = torch.autograd.grad(outs, x, exactly(grads))
    assert error(exact, expected + (0 if residual is None else residual.double())) < 1e-6


@pytest.mark.parametrize("want", WANTS, ids=str)
@pytest.mark.parametrize("num_grads", [1, 2])
@pytest.mark.parametrize("has_residual", [False, True])
def test_gradient(place, want, num_grads, has_residual):
    norm = Norm(place.random(320), place.random(320), 1e-5)
    normed, _ = reference.add_layer_norm(place.random(19, 320), (), norm, EXACT)
    grads = [place.random(19, 320) for _ in range(num_grads)]
    residual = place.random(19, 320) if has_residual else None
    arguments = (grads, normed, residual)
    hold_operands(
        fused.layer_norm_grad(*arguments, want), reference.layer_norm_grad(*arguments, want),
        reference.layer_norm_grad(*exactly(arguments), EXACT),
    )  # fmt: skip
