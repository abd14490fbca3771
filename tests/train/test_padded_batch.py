"""A few shapes for all micro-batches: padding changes no loss and no gradient, and wastes little."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from falconer.data.batch import micro_batches, plan_epoch
from falconer.records import Batch
from falconer.train import padded_batch
from falconer.train.padded_batch import MOST_PADDING, Shape, assigned, padded, shape_of, shapes_for, with_padding
from recorded_on_host import CONFIGS

pytestmark = pytest.mark.usefixtures("one_thread")

PAD = 5
SHAPES = st.builds(Shape, st.integers(1, 40), st.integers(1, 60).map(lambda n: 8 * n), st.integers(1, 50))


def batch(rows: int = 3, tokens: int = 16) -> Batch:
    ids = np.random.default_rng(rows).integers(2, 97, (rows, tokens))
    is_target = np.zeros(ids.shape, dtype=bool)
    is_target[:, 5:9] = is_target[0, -1] = True
    return Batch(ids, is_target, np.full(rows, tokens), tuple("abcdefgh"[:rows]))


def test_what_a_pass_reads_is_the_batch_and_padding() -> None:
    one, shape = batch(), Shape(4, 24, 32)
    ids, predicting, labels = np.split(padded(one, shape, PAD), [96, 128])
    assert (ids.reshape(4, 24)[:3, :16] == one.ids).all()
    assert (ids.reshape(4, 24)[3] == PAD).all() and (ids.reshape(4, 24)[:, 16:] == PAD).all()
    assert (ids[predicting[:13] + 1] == labels[:13]).all() and (labels[:13] == one.ids[one.is_target]).all()
    assert not labels[13:].any() and not predicting[13:].any()
    whole = with_padding(one, shape, PAD)
    assert (whole.ids == ids.reshape(4, 24)).all() and whole.num_targets == one.num_targets
    assert whole.lengths.tolist() == [16, 16, 16, 0] and whole.dialogue_ids == one.dialogue_ids


@pytest.mark.parametrize("name", CONFIGS)
def test_padding_changes_no_loss_and_no_gradient_of_an_untouched_model(name: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]).double()
    one = batch()

    def outcome(given: np.ndarray, shape: Shape, number: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        tensors = torch.from_numpy(given).split([shape.positions, shape.targets, shape.targets])
        logits = model(input_ids=tensors[0].view(shape.rows, shape.tokens)).logits.flatten(0, 1)
        nll = torch.nn.functional.cross_entropy(logits[tensors[1]], tensors[2], reduction="none")[:number]
        return nll.detach(), list(torch.autograd.grad(nll.sum(), list(model.parameters()), allow_unused=True))

    exact = Shape(3, 16, one.num_targets)
    expected, expected_grads = outcome(padded(one, exact, PAD), exact, 13)
    labels = torch.where(torch.from_numpy(one.is_target), torch.from_numpy(one.ids), -100)
    by_the_model = model(input_ids=torch.from_numpy(one.ids), labels=labels).loss
    assert float(expected.mean()) == pytest.approx(by_the_model.item(), rel=1e-6), "it computes its loss in fp32"
    for shape in (Shape(3, 24, 32), Shape(5, 16, 13), Shape(4, 32, 64)):
        found, grads = outcome(padded(one, shape, PAD), shape, 13)
        # The models' own norms are in fp32.
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
        for grad, other in zip(grads, expected_grads, strict=True):
            torch.testing.assert_close(grad, other, rtol=1e-6, atol=1e-7)


def test_targets_are_rounded_up() -> None:
    assert shape_of(batch()) == Shape(3, 16, 32)
    assert shape_of(batch(8, 24)) == Shape(8, 24, 64)


@given(st.lists(SHAPES, max_size=60), st.integers(1, 8))
def test_shapes_are_few_and_not_much_larger_than_the_largest_micro_batch(found: list[Shape], most: int) -> None:
    shapes = shapes_for(found, most)
    assert len(shapes) <= most and len(set(shapes)) == len(shapes)
    assert bool(shapes) == bool(found)
    if found:
        assert max(one.positions for one in shapes) <= MOST_PADDING * max(one.positions for one in found)
        assert max(one.targets for one in shapes) <= max(one.targets for one in found)
    assert shapes_for(found[::-1], most) == shapes, "the order in which they come does not matter"
    for one in found:
        into = assigned(one, shapes)
        assert into is None or (one.fits_into(into) and into.positions <= padded_batch.MOST_WASTE * one.positions)


def test_a_run_with_as_many_shapes_as_it_may_have_is_not_padded() -> None:
    found = [Shape(4, 64, 96), Shape(4, 72, 64), Shape(2, 8, 32), Shape(4, 64, 128)]
    assert shapes_for(found) == (Shape(4, 72, 64), Shape(4, 64, 128), Shape(2, 8, 32))
    assert assigned(Shape(4, 64, 96), shapes_for(found)) == Shape(4, 64, 128)
    assert assigned(Shape(1, 8, 8), shapes_for(found)) == Shape(2, 8, 32)
    assert assigned(Shape(1, 8, 64), shapes_for(found)) is None, "nine times its positions are not worth it"


def test_dialogues_of_many_lengths_are_padded_by_a_tenth() -> None:
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.normal(240, 60, 4000), 60, 512).astype(int).tolist()
    groups = [
        group for step in plan_epoch(lengths, 16384, 0, 0) for group in micro_batches(step, lengths, 4096, 0, 1)
    ]  # fmt: skip
    found = [
        Shape(len(group), -(-max(lengths[i] for i in group) // 8) * 8, sum(lengths[i] for i in group) // 3)
        for group in groups
    ]  # fmt: skip
    shapes = shapes_for(found)
    into = [(one, assigned(one, shapes)) for one in found]
    recorded = [(one, other) for one, other in into if other]
    assert len(shapes) == padded_batch.MOST_SHAPES and len(recorded) > 0.9 * len(found)
    assert sum(b.positions for _, b in recorded) < 1.1 * sum(a.positions for a, _ in recorded)
