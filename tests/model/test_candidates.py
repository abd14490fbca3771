"""Candidates' log-probabilities against a loop over single tokens, in any batch."""

import numpy as np
import pytest
import torch

from falconer.model.candidates import score_candidates
from falconer.model.load import load_model
from tiny import save_tiny_model

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14]]
REPLIES = [[[20, 21], [22], []], [[23, 24, 25, 26, 27], [20, 21]]]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("architecture", ["falcon", "llama"])
def test_sums_and_counts(tmp_path, architecture):
    loaded = load_model(
        str(save_tiny_model(tmp_path, architecture)), quantization="none", dtype="fp32", device="cpu"
    )
    seen = []

    def score(batch_tokens):
        return score_candidates(
            loaded.model, PROMPTS, REPLIES, end_id=loaded.end_id, autocast=None,
            on_progress=lambda done, total: seen.append((done, total)), batch_tokens=batch_tokens,
        )  # fmt: skip

    together, alone = score(8192), score(1)
    assert seen[-1] == (5, 5)
    for prompt, replies, one, other in zip(PROMPTS, REPLIES, together, alone, strict=True):
        assert one.num_tokens.tolist() == [len(reply) + 1 for reply in replies]
        np.testing.assert_allclose(one.sums, other.sums, rtol=1e-5)
        for reply, found in zip(replies, one.sums, strict=True):
            expected, ids = 0.0, list(prompt)
            for token in [*reply, loaded.end_id]:
                with torch.no_grad():
                    logits = loaded.model(input_ids=torch.tensor([ids])).logits[0, -1].double()
                expected += float(torch.log_softmax(logits, dim=-1)[token])
                ids.append(token)
            assert found == pytest.approx(expected, rel=1e-5)
