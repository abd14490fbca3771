"""Is a reply's log-probability the one that candidates are ranked by, and is its gradient that of plain torch?"""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, FalconForCausalLM

from engines import engine_of
from falcon_tiny import tiny_falcon
from falconer.data.batch import collate
from falconer.model.falcon.attach import enable, fast_path_of
from falconer.model.lora import add_adapter, trainable_tensors
from falconer.model.output_head import head_of
from falconer.train.objectives.replies import reply_log_probabilities, reply_row
from tiny import config_of

PROMPT = list(range(20, 44))
# The end token is 11.
REPLIES = ([30, 31, 11], [45, 46, 47, 48, 49, 11], [50, 11])


def tiny_llama(vocab=500):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of("llama", vocab, 11)).requires_grad_(False)
    adapted = add_adapter(model, r=4, alpha=8, dropout=0.0, targets="all-linear", seed=0).train()
    with torch.no_grad():
        for parameter in trainable_tensors(adapted).values():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return adapted


@pytest.fixture(params=["llama", "falcon"])
def model(request):
    return tiny_llama() if request.param == "llama" else tiny_falcon(torch.float32, targets="all-linear")


def batch():
    return collate([reply_row(PROMPT, reply, "d") for reply in REPLIES], 0)


def plain(model):
    """Return each reply's log-probability in float64, row by row, by the model's own forward pass."""
    found = []
    for reply in REPLIES:
        ids = torch.tensor([*PROMPT, *reply])
        log_probabilities = F.log_softmax(model(input_ids=ids[None], use_cache=False).logits[0], dim=-1)
        places = torch.arange(len(PROMPT), len(ids))
        found.append(log_probabilities[places - 1, ids[places]].sum())
    return torch.stack(found)


def test_a_row_holds_prompt_and_reply_and_learns_the_reply_alone():
    row = reply_row(np.array(PROMPT, dtype=np.int32), REPLIES[0], "d")
    assert row.ids.tolist() == [*PROMPT, *REPLIES[0]] and row.ids.dtype == np.int32
    assert row.ids[row.is_target].tolist() == REPLIES[0]
    assert row.reply_sizes == (3,) and row.num_targets == 3


def test_log_probabilities_and_gradients_equal_plain_float64(model):
    exact = copy.deepcopy(model).double()
    if isinstance(model.get_base_model(), FalconForCausalLM):
        enable(model, fp8=False, memory="fast", cache_weights=True)
        assert fast_path_of(model) is not None
    weights = torch.tensor([1.0, -2.0, 0.5])
    expected = plain(exact)
    expected_grads = torch.autograd.grad((weights.double() * expected).sum(), list(trainable_tensors(exact).values()))
    sums, sizes = reply_log_probabilities(model, batch(), head_on_targets=head_of(model), autocast=None)
    assert sizes.tolist() == [len(reply) for reply in REPLIES]
    torch.testing.assert_close(sums.double(), expected, rtol=1e-5, atol=1e-5)
    grads = torch.autograd.grad((weights * sums).sum(), list(trainable_tensors(model).values()))
    for ours, theirs in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=1e-5)


def test_evaluation_ranks_by_the_same_log_probabilities():
    model, engine = tiny_llama(vocab=10_000).eval(), engine_of(tiny_llama(vocab=10_000).eval())
    end_id = engine.encoder.end_id
    replies = [[*reply[:-1], end_id] for reply in REPLIES]
    rows = collate([reply_row(PROMPT, reply, "d") for reply in replies], 0)
    with torch.no_grad():
        sums, sizes = reply_log_probabilities(model, rows, head_on_targets=head_of(model), autocast=None)
    (scores,) = engine.rank([PROMPT], [[reply[:-1] for reply in replies]])
    assert list(scores.num_tokens) == sizes.tolist()
    np.testing.assert_allclose(scores.sums, sums.numpy(), rtol=1e-5)
