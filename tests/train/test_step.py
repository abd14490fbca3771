"""Is one step's loss and gradient the sum over target tokens divided once by their number, however it is cut up?"""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from falconer.data.batch import collate, micro_batches
from falconer.model.load import load_model
from falconer.model.lora import add_adapter, trainable_tensors
from falconer.model.output_head import head_of
from falconer.records import Example
from falconer.train.objectives.lm import LmObjective
from falconer.train.objectives.objective import Forward
from falconer.train.ranks import Ranks
from falconer.train.step import NonFiniteLoss, accumulate_gradient, nll_sum, validation_terms, without_gradient

CPU = torch.device("cpu")
LENGTHS = (41, 9, 17, 26, 33, 12, 50, 8)


def examples():
    rng = np.random.default_rng(3)
    rows = []
    for number, length in enumerate(LENGTHS):
        # Very different shares of targets, so that a mean of micro-batch means would be far off.
        is_target = np.arange(length) >= (length - 1 if number % 2 else length // 3)
        rows.append(
            Example(
                ids=rng.integers(0, 900, length, dtype=np.int32), is_target=is_target, dialogue_id=f"d{number}",
                reply_starts=(int(np.argmax(is_target)),), reply_ends=(length,), turn_indices=(1,),
            )
        )  # fmt: skip
    return rows


@pytest.fixture(scope="module")
def model(small):
    base = load_model(str(small.model), quantization="none", dtype="fp32", device="cpu")
    adapted = add_adapter(base.model, r=4, alpha=8, dropout=0.0, targets="all-linear", seed=17)
    with torch.no_grad():
        for parameter in trainable_tensors(adapted).values():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return adapted.train()


def parameters_of(model):
    return list(trainable_tensors(model).values())


def plain_nll(model, rows):
    """Sum, example by example and without padding, in the model's own dtype."""
    total = 0
    for row in rows:
        logits = model(input_ids=torch.from_numpy(row.ids.astype(np.int64)).unsqueeze(0)).logits[0]
        nll = F.cross_entropy(logits[:-1], torch.from_numpy(row.ids[1:].astype(np.int64)), reduction="none")
        total = total + nll[torch.from_numpy(row.is_target[1:])].sum()
    return total


def reference(model, rows):
    """Return the token-weighted loss and its gradient in float64."""
    exact = copy.deepcopy(model).double()
    loss = plain_nll(exact, rows) / sum(row.num_targets for row in rows)
    return float(loss.detach()), torch.autograd.grad(loss, parameters_of(exact))


def cut(rows, micro_tokens):
    groups = micro_batches(range(len(rows)), [len(row.ids) for row in rows], micro_tokens, 0, 1)
    return [collate([rows[index] for index in group], pad_id=0) for group in groups]


class Scripted(LmObjective):
    """The language modelling objective with another way to compute the sum of a batch."""

    def __init__(self, nll):
        super().__init__([], [], 0)
        self.nll = nll

    def sums(self, forward, batch):
        return self.nll(batch).unsqueeze(0)


def gradient(model, batches, nll, num_targets):
    parameters, forward = parameters_of(model), Forward(model, None, None)
    (loss,) = accumulate_gradient(batches, [num_targets], Scripted(nll), forward, parameters, Ranks(CPU))
    found = [parameter.grad.clone() for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return loss, found


@pytest.mark.parametrize(("micro_tokens", "num_batches"), [(1, 8), (100, 3), (1000, 1)])
@pytest.mark.parametrize("head_on_targets", [True, False])
def test_loss_and_gradient_equal_a_float64_reference(model, micro_tokens, num_batches, head_on_targets):
    rows = examples()
    batches = cut(rows, micro_tokens)
    assert len(batches) == num_batches
    expected_loss, expected = reference(model, rows)
    head = head_of(model) if head_on_targets else None
    loss, found = gradient(
        model, batches, lambda batch: nll_sum(model, batch, head_on_targets=head, autocast=None),
        sum(row.num_targets for row in rows),
    )  # fmt: skip
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-6)


def test_a_mean_of_means_would_be_another_number(model):
    rows = examples()
    with torch.no_grad():
        means = [float(plain_nll(model, [row])) / row.num_targets for row in rows]
    assert abs(np.mean(means) - reference(model, rows)[0]) > 0.005


def test_one_by_eight_equals_eight_by_one_in_float64(model):
    exact = copy.deepcopy(model).double()
    rows = examples()
    by_id = {row.dialogue_id: row for row in rows}
    num_targets = sum(row.num_targets for row in rows)

    def nll(batch):
        return plain_nll(exact, [by_id[name] for name in batch.dialogue_ids])

    whole_loss, whole = gradient(exact, cut(rows, 1000), nll, num_targets)
    for micro_tokens in (1, 60, 100):
        loss, found = gradient(exact, cut(rows, micro_tokens), nll, num_targets)
        assert loss == pytest.approx(whole_loss, rel=1e-13)
        for ours, expected in zip(found, whole, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("micro_tokens", [1, 100, 1000])
def test_validation_is_the_same_token_weighted_loss_without_dropout(small, micro_tokens):
    base = load_model(str(small.model), quantization="none", dtype="fp32", device="cpu")
    model = add_adapter(base.model, r=4, alpha=8, dropout=0.5, targets="all-linear", seed=17)
    with torch.no_grad():
        for parameter in trainable_tensors(model).values():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    expected, _ = reference(model.eval(), examples())
    model.train()
    objective = LmObjective([], examples(), 0)
    counts, forward = objective.counts(objective.validation_items()), Forward(model, head_of(model), None)
    (loss,) = validation_terms(objective, forward, cut(examples(), micro_tokens), counts, Ranks(CPU))
    assert loss == pytest.approx(expected, rel=1e-6)
    assert model.training and all(parameter.grad is None for parameter in parameters_of(model))


def test_bf16_arithmetic_stays_near_fp32(model):
    batch = cut(examples(), 1000)[0]
    with torch.no_grad():
        whole = nll_sum(model, batch, head_on_targets=head_of(model), autocast=None)
        half = nll_sum(model, batch, head_on_targets=head_of(model), autocast=torch.bfloat16)
    assert half.dtype == torch.float32 and float(half) != float(whole)
    assert float(half) == pytest.approx(float(whole), rel=5e-3)


def test_a_rank_without_dialogues_has_a_zero_gradient(model):
    loss, found = gradient(model, [], lambda batch: plain_nll(model, []), 10)
    assert loss == 0 and all(not grad.any() for grad in found)


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_what_is_not_finite_is_refused_with_the_dialogues(model, bad):
    batches = cut(examples(), 100)
    before = [parameter.detach().clone() for parameter in parameters_of(model)]

    def nll(batch):
        loss = nll_sum(model, batch, head_on_targets=head_of(model), autocast=None)
        if "d6" not in batch.dialogue_ids:
            return loss
        # The root of zero is zero and its slope infinite: a finite loss with a gradient that is not.
        return loss * float("nan") if bad == "loss" else loss + torch.sqrt(0 * parameters_of(model)[0]).sum()

    with pytest.raises(NonFiniteLoss, match=r"not finite.*d0, d6|not finite.*d6"):
        gradient(model, batches, nll, 100)
    assert all(torch.equal(old, new) for old, new in zip(before, parameters_of(model), strict=True))
    for parameter in parameters_of(model):
        parameter.grad = None


def test_a_tensor_that_the_loss_does_not_depend_on_is_named():
    def parameter(gradient):
        made = torch.nn.Parameter(torch.zeros(2))
        made.grad = None if gradient is None else torch.tensor(gradient)
        return made

    found = without_gradient({
        "layers.0.q.lora_A.default.weight": parameter([0.0, 0.0]),  # its partner is zero, and learns
        "layers.0.q.lora_B.default.weight": parameter([0.0, 1.0]),
        "layers.0.k.lora_A.default.weight": parameter([0.0, 0.0]),
        "layers.0.k.lora_B.default.weight": parameter([0.0, 0.0]),
        "layers.0.v.lora_A.default.weight": parameter(None),
        "layers.0.v.lora_B.default.weight": parameter(None),
        "layers.0.experts.0.up.lora_B.default.weight": parameter([1.0, 0.0]),
        "layers.0.experts.1.up.lora_B.default.weight": parameter(None),  # nobody asked it
        "layers.1.experts.0.up.lora_B.default.weight": parameter(None),
        "lm_head.modules_to_save.default.weight": parameter([0.0, 0.0]),
        "embed.token_adapter.trainable_tokens_delta.default": parameter([0.0, 0.0]),
    })  # fmt: skip
    assert found == [
        "layers.0.k.lora_A.default.weight", "layers.0.k.lora_B.default.weight", "layers.0.v.lora_A.default.weight",
        "layers.0.v.lora_B.default.weight", "layers.1.experts.0.up.lora_B.default.weight",
        "lm_head.modules_to_save.default.weight",
    ]  # fmt: skip


def test_a_fresh_adapter_learns_in_every_tensor(small):
    base = load_model(str(small.model), quantization="none", dtype="fp32", device="cpu")
    names = "query_key_value,lm_head,word_embeddings"
    adapted = add_adapter(base.model, r=4, alpha=8, dropout=0.0, targets=names, seed=17).train()
    nll_sum(adapted, collate(examples()[:1], 11), head_on_targets=head_of(adapted), autocast=None).backward()
    assert without_gradient(trainable_tensors(adapted)) == []
