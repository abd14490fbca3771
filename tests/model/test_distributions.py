"""What a model predicts at targets is its logits' softmax there, and the divergence is torch's own."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from falconer import runtime
from falconer.model.distributions import divergence, target_log_probs
from falconer.records import Example
from tiny import save_tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")


def test_log_probs_stand_before_their_targets(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(save_tiny_model(tmp_path / "m", "falcon"), dtype=torch.float32).eval()
    ids = np.arange(1, 21, dtype=np.int32)
    is_target = np.isin(np.arange(20), [5, 6, 7, 15, 19])
    example = Example(ids, is_target, "d", (5, 15, 19), (8, 16, 20), (1, 3, 5))
    found = target_log_probs(model, example, runtime.pick_precision("fp32", torch.device("cpu")))
    with torch.no_grad():
        expected = model(torch.arange(1, 21)[None]).logits[0].log_softmax(-1)[[4, 5, 6, 14, 18]]
    torch.testing.assert_close(found, expected)
    # transformers' own loss of the same targets.
    labels = torch.from_numpy(np.where(is_target, ids, -100)).long()[None]
    nll = -found.gather(1, torch.from_numpy(ids[is_target]).long()[:, None]).mean()
    torch.testing.assert_close(nll, model(torch.arange(1, 21)[None], labels=labels).loss)


def test_divergence_is_torchs():
    ours, theirs = torch.randn(2, 7, 50).log_softmax(-1)
    expected = F.kl_div(theirs.double(), ours.double(), reduction="none", log_target=True).sum(-1)
    np.testing.assert_allclose(divergence(ours, theirs), expected.numpy(), rtol=1e-5)
    assert divergence(ours, ours) == pytest.approx(0)
    # Rows that no text uses: a merged vocabulary may have been padded.
    padded = torch.cat([theirs, torch.full((7, 3), -30.0)], dim=1)
    np.testing.assert_allclose(divergence(ours, padded), expected.numpy(), rtol=1e-5)
