"""The likelihood of targets, against plain cross-entropy over whole rows in float64."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from falconer.data.batch import collate
from falconer.model import likelihood as score
from falconer.model.load import load_model
from falconer.model.output_head import head_of
from falconer.records import Example
from tiny import ARCHITECTURES, save_tiny_model


def examples() -> list[Example]:
    rng = np.random.default_rng(3)
    rows = []
    for length in (5, 17, 30, 2):
        mask = rng.random(length) < 0.5
        mask[0], mask[-1] = False, True
        rows.append(Example(rng.integers(20, 900, length).astype(np.int32), mask, f"d{length}", (), (), ()))
    return rows


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("head_on_targets", [True, False])
def test_batched_likelihood_equals_each_row_alone(tmp_path, architecture, head_on_targets):
    model = load_model(
        str(save_tiny_model(tmp_path, architecture)), quantization="none", dtype="fp32", device="cpu"
    ).model.double()
    head = head_of(model)
    assert head is not None
    expected = []
    for row in examples():
        logits = model(input_ids=torch.from_numpy(row.ids.astype(np.int64)).unsqueeze(0)).logits[0]
        every = F.cross_entropy(logits[:-1], torch.from_numpy(row.ids[1:].astype(np.int64)), reduction="none")
        expected.append(every[torch.from_numpy(row.is_target[1:])])
    ours = score.target_nll(model, collate(examples(), pad_id=0), head_on_targets=head if head_on_targets else None)
    # The sum is fp32 by design, so fp32's own rounding is what may differ.
    torch.testing.assert_close(ours.double(), torch.cat(expected), rtol=1e-5, atol=1e-5)
