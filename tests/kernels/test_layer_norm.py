import pytest

from falconer.kernels import fused, reference
from falconer.kernels.formats import Norm, Want
from kernel_rule import exactly, hold_operands, hold_to_rule

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
