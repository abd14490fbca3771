"""Candidates' log-probabilities against a loop over single tokens, in any batch."""

import numpy as np
import pytest
import torch

from engines import engine_of
from falcon_tiny import GPU_SHAPES, LAYOUTS, VOCAB, tiny_falcon
from falconer.kernels import fused
from falconer.model import engine as asking
from falconer.model.falcon import four_bit as products
from falconer.model.falcon.infer_pass import Forward
from falconer.model.generate import candidates
from falconer.model.generate import prefix as branch
from falconer.model.load import load_model
from tiny import save_tiny_model

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14]]
REPLIES = [[[20, 21], [22], []], [[23, 24, 25, 26, 27], [20, 21]]]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("architecture", ["falcon", "llama"])
def test_sums_and_counts(tmp_path, architecture, monkeypatch):
    loaded = load_model(str(save_tiny_model(tmp_path, architecture)), quantization="none", dtype="fp32", device="cpu")
    engine, seen = engine_of(loaded.model), []
    together = engine.rank(PROMPTS, REPLIES, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5)
    monkeypatch.setattr(candidates, "BRANCH_TOKENS", {"cpu": 1})
    monkeypatch.setattr(asking, "PASS_TOKENS", 1)
    alone = engine.rank(PROMPTS, REPLIES)
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


class Scored:
    """A tiny Falcon, and random dialogues with candidates, scored one way or the other."""

    def __init__(self, **settings):
        self.model = tiny_falcon(torch.float32, targets="all-linear", initializer_range=0.1, **settings).eval()
        rng = np.random.default_rng(0)
        dialogue = rng.integers(0, VOCAB, 120).tolist()
        # Three turns of a dialogue, the same turn again, one of another dialogue; and one without candidates.
        self.prompts = [dialogue[:40], dialogue, dialogue[:7], dialogue[:40], [4, 5], dialogue[:50]]
        self.replies = [
            [rng.integers(0, VOCAB, length).tolist() for length in lengths]
            for lengths in ((3, 0, 9), (1, 1, 17), (2,), (5, 3), (4, 0), ())
        ]
        # What the dialogue goes on with, whole and in part; candidates that begin alike; and one twice.
        shared = self.replies[0][2]
        self.replies[0] += [dialogue[40:46], [*dialogue[40:43], 1, 2], [*dialogue[40:43], 1], [*shared[:4], 1, 2]]
        self.replies[2] += [dialogue[7:12], dialogue[7:12], dialogue[7:9]]
        self.num = sum(map(len, self.replies))
        self.seen = []

    def score(self, path="auto", base=False):
        engine = engine_of(self.model, path=path, precision=next(self.model.parameters()).dtype)
        engine = engine.base if base else engine
        scores = engine.rank(self.prompts, self.replies, lambda *report: self.seen.append(report))
        assert [len(score.sums) for score in scores] == [len(replies) for replies in self.replies]
        assert [score.num_tokens.tolist() for score in scores] == [[len(r) + 1 for r in rs] for rs in self.replies]
        return np.concatenate([score.sums for score in scores])


@pytest.mark.parametrize("nf4", [False, True])
@pytest.mark.parametrize("batch_tokens", [None, 1, 9])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_branches_of_shared_prompts_score_as_whole_sequences_do(batch_tokens, nf4, layout, monkeypatch):
    world = Scored(nf4=nf4, layout=layout)
    if batch_tokens:
        monkeypatch.setattr(candidates, "BRANCH_TOKENS", {"cpu": batch_tokens})
    sums = world.score()
    assert [total for _, total in world.seen] == [world.num] * len(world.seen) and world.seen[-1][0] == world.num
    np.testing.assert_allclose(sums, world.score("generic"), rtol=1e-5)
    base = world.score(base=True)
    np.testing.assert_allclose(base, world.score("generic", base=True), rtol=1e-5)
    assert np.median(np.abs(base - sums)) > 0.1


def test_no_token_is_computed_twice(monkeypatch):
    world, computed = Scored(), []
    whole = Forward.hidden_states
    monkeypatch.setattr(
        Forward, "hidden_states", lambda self, ids, *rest: computed.append(len(ids)) or whole(self, ids, *rest)
    )
    world.score()
    # What each prompt and its candidates have behind what precedes them.
    beginnings = {
        (*prompt, *reply)[:length]
        for prompt, replies in zip(world.prompts, world.replies, strict=True)
        for reply in [[], *replies] for length in range(1, len(prompt) + len(reply) + 1)
    }  # fmt: skip
    assert sum(computed) == len(beginnings)


def test_a_cache_too_small_for_all_scores_them_in_turns(monkeypatch):
    world = Scored()
    sums = world.score()
    monkeypatch.setattr(branch, "MOST_CACHE_BYTES", 1)
    monkeypatch.setattr(branch, "PASS_TOKENS", {"cpu": 1})
    monkeypatch.setattr(candidates, "CHUNK_TARGETS", 2)
    np.testing.assert_allclose(world.score(), sums, rtol=1e-5)


@pytest.mark.parametrize("layout", ["7b", "40b"])
def test_the_kernels_score_as_plain_torch_does(layout, monkeypatch):
    world = Scored(layout=layout)
    sums = world.score()
    monkeypatch.setattr(products, "ops_for", lambda _: fused)
    np.testing.assert_allclose(world.score(), sums, rtol=1e-5)


def test_no_candidates_at_all():
    assert engine_of(Scored().model).rank([], []) == []
    (nothing,) = engine_of(Scored().model).rank([[1, 2]], [[]])
    assert len(nothing.sums) == len(nothing.num_tokens) == 0


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_bf16_on_a_gpu_both_ways_agree(layout):
    shape = GPU_SHAPES[layout] | {"num_hidden_layers": 2, "vocab_size": VOCAB}
    world = Scored(device="cuda", rank=16, layout=layout, **shape)
    world.model.to(torch.bfloat16)
    np.testing.assert_allclose(world.score(), world.score("generic"), rtol=0.02)
