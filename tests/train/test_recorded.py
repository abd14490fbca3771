"""Recorded passes: that they compute the same, and what happens where they do not; on a GPU as CUDA graphs."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from falconer.model.layers.replace import replace_layers, restore_layers
from falconer.model.lora import add_adapter, trainable_tensors
from falconer.model.output_head import head_of
from falconer.records import Batch, Tree
from falconer.train import recorded as recording
from falconer.train.objectives.lm import LmObjective
from falconer.train.objectives.objective import Forward
from falconer.train.padded_batch import Shape, shape_of, shapes_for, with_padding
from falconer.train.ranks import Ranks
from falconer.train.recorded import Pass, Recorded, why_not_recorded
from falconer.train.step import accumulate_gradient, nlls
from recorded_on_host import CONFIGS, OnTheHost

pytestmark = pytest.mark.usefixtures("one_thread")

PAD = 5
GPU = pytest.param("cuda", marks=pytest.mark.gpu)
Step = Callable[[Recorded | None], tuple[float, torch.Tensor]]


def batch(rows: int = 3, tokens: int = 24) -> Batch:
    ids = np.random.default_rng(rows).integers(2, 97, (rows, tokens))
    is_target = np.zeros(ids.shape, dtype=bool)
    is_target[:, 7:12] = True
    return Batch(ids, is_target, np.full(rows, tokens), tuple("abcdefgh"[:rows]))


BATCHES = [batch(), batch(2, 40), batch(4)]
COUNTS = [sum(one.num_targets for one in BATCHES)]
# The first is for two of the batches, of which one is padded.
SHAPES = (Shape(4, 24, 32), Shape(2, 40, 32))


def own_model(name: str, device: str = "cpu", dropout: float = 0.0, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(1)
    base: Any = AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation="sdpa")
    base = base.to(device, dtype).requires_grad_(False)
    model = add_adapter(base, r=4, alpha=8, dropout=dropout, targets="all-linear", seed=0).train()
    with torch.no_grad():
        for parameter in trainable_tensors(model).values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    assert replace_layers(model, None if device == "cpu" else dtype) == ""
    return model


def parameters_of(model: Any) -> list[Any]:
    return list(trainable_tensors(model).values())


def recorded_of(model: Any, kind: type[Recorded] = OnTheHost, shapes: Any = SHAPES) -> Recorded:
    head = head_of(model)
    assert head is not None
    return kind(model, head, parameters_of(model), shapes, PAD)


def step_of(model: Any, batches: list[Batch] = BATCHES, seed: int = 3, autocasts: bool = True) -> Step:
    """Return what computes the loss and gradient of an optimiser step."""
    parameters, head = parameters_of(model), head_of(model)
    autocast = torch.bfloat16 if autocasts and parameters[0].device.type == "cuda" else None

    def step(recorded: Recorded | None) -> tuple[float, torch.Tensor]:
        torch.manual_seed(seed)
        forward = Forward(model, head, autocast, recorded)
        ranks = Ranks(parameters[0].device)
        (loss,) = accumulate_gradient(batches, COUNTS, LmObjective([], [], PAD), forward, parameters, ranks)
        gradient = torch.cat([p.grad.flatten() for p in parameters])
        model.zero_grad(set_to_none=True)
        return loss, gradient

    return step


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_of_recorded_micro_batches_is_that_of_an_untouched_model(name: str) -> None:
    model = own_model(name)
    recorded, step = recorded_of(model), step_of(model)
    loss, gradient = step(recorded)
    assert recorded.num_recorded == 2 and not recorded.why_not
    again, once_more = step(recorded)
    assert again == loss and torch.equal(once_more, gradient), "nothing is left of the step before"
    restore_layers(model)
    expected, stock = step(None)
    # The models' own norms are in fp32.
    assert loss == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(gradient, stock, rtol=1e-5, atol=1e-7)


def test_a_batch_that_fits_into_no_shape_is_computed_as_usual_in_the_same_step() -> None:
    model = own_model("llama")
    recorded, step = recorded_of(model, shapes=SHAPES[:1]), step_of(model)
    (loss, gradient), (expected, usual) = step(recorded), step(None)
    assert recorded.num_recorded == 1 and loss == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(gradient, usual, rtol=1e-9, atol=1e-12)


def test_what_is_done_with_the_losses_is_up_to_the_objective() -> None:
    model = own_model("llama")
    recorded, parameters, head = recorded_of(model), parameters_of(model), head_of(model)
    found = []
    for one in (recorded, None):
        nll = nlls(model, batch(), head_on_targets=head, autocast=None, recorded=one)
        assert nll.shape == (15,)
        (nll[:5].sum() * nll[5:].exp().sum()).log().backward()
        found.append(torch.cat([p.grad.flatten() for p in parameters]))
        model.zero_grad(set_to_none=True)
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


def test_gradients_that_are_there_already_are_kept() -> None:
    model = own_model("llama")
    recorded, parameters, head = recorded_of(model), parameters_of(model), head_of(model)
    found = []
    for first, second in ((None, recorded), (recorded, None), (None, None)):
        for one in (first, second):
            nlls(model, batch(), head_on_targets=head, autocast=None, recorded=one).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in parameters]))
        model.zero_grad(set_to_none=True)
    for one in found[:2]:
        torch.testing.assert_close(one, found[2], rtol=1e-9, atol=1e-12)


def test_without_gradient_out_of_training_and_with_branches_nothing_is_recorded() -> None:
    model = own_model("llama")
    recorded = recorded_of(model)
    with torch.no_grad():
        assert recorded.nlls(batch()) is None
    model.eval()
    assert recorded.nlls(batch()) is None
    model.train()
    one, tree = batch(), Tree(*np.zeros((4, 3, 24), dtype=np.int64))
    assert recorded.nlls(Batch(one.ids, one.is_target, one.lengths, one.dialogue_ids, tree)) is None
    assert recorded.num_recorded == 0 and not recorded.why_not
    assert recorded.nlls(one) is not None and recorded.num_recorded == 1
    assert (recorded.positions(one), recorded.positions(batch(8, 40))) == (96, 0)


def test_the_backward_pass_of_a_batch_comes_before_the_next_batch() -> None:
    recorded = recorded_of(own_model("llama"))
    first, second = recorded.nlls(batch()), recorded.nlls(batch(4))
    assert first is not None and second is not None
    with pytest.raises(RuntimeError, match="another recorded pass has been computed"):
        first.sum().backward()
    second.sum().backward()


def test_a_trial_finds_what_computes_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    model = own_model("gemma3", dtype=torch.float32)
    good = recorded_of(model)
    assert good.why_not_alike(batch()) == "" and good.num_recorded == 1
    assert all(p.grad is None for p in parameters_of(model))
    wrong = recorded_of(model)
    monkeypatch.setattr(recording._NothingKept, "update", lambda self, keys, values, *_: (keys, -99 * values))
    assert wrong.why_not_alike(batch()) == "a recorded pass gives another loss or gradient"
    assert wrong.nlls(batch()) is None and wrong.num_recorded == 0, "it is not asked again"
    assert recorded_of(model).why_not_alike(batch(8, 40)) == "micro-batches of this kind are not recorded"


class Failing(OnTheHost):
    error: Exception = RuntimeError("operation not permitted when stream is capturing\nmore")

    def _record(self, shape: Shape, given: torch.Tensor) -> Pass:
        if self.num_recorded:
            raise self.error
        return super()._record(shape, given)


class OutOfMemory(Failing):
    error = torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Failing, "recording fails (RuntimeError: operation not permitted when stream is capturing)"),
        (OutOfMemory, "memory does not suffice for recording"),
    ],
)
def test_where_recording_fails_the_rest_of_a_step_is_computed_as_usual(kind: type[Recorded], reason: str) -> None:
    model = own_model("llama")
    recorded, step = recorded_of(model, kind), step_of(model)
    (loss, gradient), (expected, usual) = step(recorded), step(None)
    assert recorded.why_not == reason and recorded.num_recorded == 0
    assert loss == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(gradient, usual, rtol=1e-9, atol=1e-12)


class Tried(OnTheHost):
    """Computes once while it records, as a GPU does."""

    def _record(self, shape: Shape, given: torch.Tensor) -> Pass:
        self._compute(given, shape)
        return super()._record(shape, given)


def test_a_model_that_takes_no_cache_is_found_by_the_trial() -> None:
    model = own_model("llama")
    recorded, backbone = recorded_of(model, Tried), model.get_base_model().base_model
    forward = backbone.forward
    backbone.forward = lambda input_ids, use_cache: forward(input_ids=input_ids, use_cache=use_cache)
    reason = recorded.why_not_alike(batch())
    assert reason.startswith("recording fails (TypeError:") and "past_key_values" in reason


def test_what_can_not_be_recorded_is_not_tried() -> None:
    model = own_model("llama")
    assert why_not_recorded(model, head_of(model), parameters_of(model)) == "there is no GPU"


# What follows needs a GPU: there Triton's kernels compute, and CUDA graphs are replayed.


def error(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm())


@pytest.mark.gpu
@pytest.mark.parametrize("name", CONFIGS)
def test_a_graph_errs_no_more_than_the_models_own_pass(name: str) -> None:
    model = own_model(name, "cuda", dtype=torch.bfloat16)
    recorded, step = recorded_of(model, Recorded), step_of(model)
    assert why_not_recorded(model, head_of(model), parameters_of(model)) == ""
    assert recorded.why_not_alike(batch(2, 40)) == ""
    (loss, gradient), (own_loss, own_gradient) = step(recorded), step(None)
    assert recorded.num_recorded == 2 and not recorded.why_not
    restore_layers(model)
    stock_loss, stock = step(None)
    # In the same number format: own layers keep the residual stream in bf16, autocast in fp32.
    plain_loss, plain = step_of(model, autocasts=False)(None)
    exact = copy.deepcopy(model).double()
    (exact_loss,), found = [0.0], []
    for one in BATCHES:
        nll = nlls(exact, one, head_on_targets=head_of(exact), autocast=None).sum() / COUNTS[0]
        nll.backward()
        exact_loss += float(nll.detach())
    found = torch.cat([p.grad.flatten() for p in parameters_of(exact)])
    assert abs(loss - exact_loss) <= 2 * max(abs(plain_loss - exact_loss), abs(stock_loss - exact_loss)) + 1e-4
    assert error(gradient, found) <= 2 * error(plain, found)
    # Padding changes the order of sums.
    assert error(gradient, own_gradient) <= error(plain, found) and loss == pytest.approx(own_loss, rel=1e-4)


@pytest.mark.gpu
def test_dropout_is_a_function_of_the_step_recorded_or_not() -> None:
    model = own_model("llama", "cuda", dropout=0.3, dtype=torch.bfloat16)
    batches = [batch(2, 40), batch(4)]
    recorded = recorded_of(model, Recorded)
    found = {}
    for seed in (3, 4, 3):
        step = step_of(model, batches, seed)
        (loss, gradient), (usual_loss, usual) = step(recorded), step(None)
        assert loss == pytest.approx(usual_loss, rel=1e-4) and error(gradient, usual) < 0.02
        if seed in found:
            assert found[seed][0] == loss and error(gradient, found[seed][1]) < 1e-5
        found[seed] = loss, gradient
    assert recorded.num_recorded == 2
    assert error(found[4][1], found[3][1]) > 0.1, "another step has another dropout"
    one = step_of(model, [batch(4), batch(4)], 5)(recorded)[1]
    other = 2 * step_of(model, [batch(4)], 5)(recorded)[1]
    assert error(one, other) > 0.1, "each micro-batch has its own"


@pytest.mark.gpu
def test_a_padded_batch_has_the_dropout_of_the_same_padding() -> None:
    model = own_model("llama", "cuda", dropout=0.3, dtype=torch.bfloat16)
    whole = with_padding(batch(), SHAPES[0], PAD)
    loss, gradient = step_of(model, [batch()])(recorded_of(model, Recorded))
    expected, usual = step_of(model, [whole])(None)
    assert loss == pytest.approx(expected, rel=1e-4) and error(gradient, usual) < 0.02


@pytest.mark.gpu
def test_a_run_that_is_resumed_goes_on_bit_for_bit() -> None:
    def train(model: Any, optimizer: Any, steps: range) -> None:
        recorded = recorded_of(model, Recorded)
        parameters, head = parameters_of(model), head_of(model)
        for number in steps:
            torch.manual_seed(number)
            forward = Forward(model, head, torch.bfloat16, recorded)
            accumulate_gradient(
                BATCHES, COUNTS, LmObjective([], [], PAD), forward, parameters, Ranks(parameters[0].device)
            )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        assert recorded.num_recorded == 2 and not recorded.why_not

    def begun() -> tuple[Any, Any]:
        model = own_model("llama", "cuda", dropout=0.3, dtype=torch.bfloat16)
        return model, torch.optim.AdamW(parameters_of(model), lr=1e-3)

    whole, optimizer = begun()
    train(whole, optimizer, range(4))
    first, optimizer = begun()
    train(first, optimizer, range(2))
    state = copy.deepcopy(optimizer.state_dict())
    second, optimizer = begun()
    with torch.no_grad():
        for p, saved in zip(parameters_of(second), parameters_of(first), strict=True):
            p.copy_(saved)
    optimizer.load_state_dict(state)
    train(second, optimizer, range(2, 4))
    for one, other in zip(parameters_of(second), parameters_of(whole), strict=True):
        assert torch.equal(one, other)


@pytest.mark.gpu
def test_a_model_that_looks_at_values_is_not_recorded_and_trains_on() -> None:
    model = own_model("llama", "cuda", dropout=0.3, dtype=torch.bfloat16)
    norm = model.get_base_model().model.norm
    inner = norm.forward
    norm.forward = lambda x: inner(x) if float(x.float().mean()) > -1e9 else x
    recorded, step = recorded_of(model, Recorded), step_of(model)
    (loss, gradient), (usual_loss, usual) = step(recorded), step(None)
    assert recorded.why_not.startswith("recording fails") and recorded.num_recorded == 0
    assert loss > 0 and usual_loss > 0 and gradient.isfinite().all() and usual.isfinite().all()
    torch.rand(4, device="cuda")  # the generator is as it was


@pytest.mark.gpu
def test_shapes_share_their_memory() -> None:
    model = own_model("llama", "cuda", dtype=torch.bfloat16)
    batches = [batch(8, 512), batch(8, 504), batch(8, 496), batch(8, 488)]
    recorded = recorded_of(model, Recorded, shapes_for([shape_of(one) for one in batches]))
    held = []

    def add(one: Batch) -> None:
        nll = recorded.nlls(one)
        assert nll is not None
        nll.sum().backward()

    for one in batches:
        add(one)
        torch.cuda.empty_cache()
        held.append(torch.cuda.memory_reserved())
    assert recorded.num_recorded == 4 and held[3] - held[0] < 0.5 * held[0]
    recorded.free()
    assert torch.cuda.memory_reserved() < held[3]
