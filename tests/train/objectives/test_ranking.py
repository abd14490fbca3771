"""Is the ranking objective's loss and gradient that of plain float64, however it is computed and cut up?"""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, FalconForCausalLM

from falcon_tiny import tiny_falcon
from falconer.data.batch import micro_batches
from falconer.data.branches import Unit, collate_units
from falconer.data.distractors import Ranked
from falconer.model.falcon.attach import enable, fast_path_of
from falconer.model.lora import add_adapter, trainable_tensors
from falconer.model.output_head import head_of
from falconer.ranking_config import RankingConfig
from falconer.records import Example
from falconer.train.objectives import ranking
from falconer.train.objectives.objective import Forward, figures_of
from falconer.train.objectives.ranking import RankedSplit, RankingObjective
from falconer.train.ranks import Ranks
from falconer.train.step import accumulate_gradient, nlls
from generic_models import CONFIGS
from tiny import config_of

VOCAB = 500
CPU = torch.device("cpu")
WEIGHT, SCALE = 0.7, 3.0


def adapted(config):
    torch.manual_seed(0)
    if config.model_type == "gpt2":
        config.update({"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0})
    model = AutoModelForCausalLM.from_config(config).requires_grad_(False)
    model = add_adapter(model, r=4, alpha=8, dropout=0.0, targets="all-linear", seed=0)
    with torch.no_grad():
        for parameter in trainable_tensors(model).values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.train()


@pytest.fixture(params=["llama", "gpt2", "gemma", "falcon", "falcon-40b"])
def models(request):
    """A model on the path that training would choose, and a copy in float64 on its own."""
    if request.param.startswith("falcon"):
        layout = {"falcon": "7b", "falcon-40b": "40b"}[request.param]
        model = tiny_falcon(torch.float32, targets="all-linear", layout=layout)
    elif request.param == "gemma":
        # Layers of two types, one of which sees six tokens.
        config = copy.deepcopy(CONFIGS["gemma"])
        config.vocab_size = VOCAB
        model = adapted(config)
    else:
        model = adapted(config_of(request.param, VOCAB, 11))
    exact = copy.deepcopy(model).double()
    if isinstance(model.get_base_model(), FalconForCausalLM):
        enable(model, fp8=False, memory="fast", cache_weights=True)
        assert fast_path_of(model) is not None
    return model, exact


def units(vocabulary=VOCAB, num=8, *, partner_too=False):
    """Return units of very different sizes, one of them without a ranked reply.

    Args:
        partner_too: all tokens behind the second one are learned.
    """
    rng = np.random.default_rng(5)

    def some(length):
        return rng.integers(20, vocabulary, length, dtype=np.int32)

    found = []
    for number in range(num):
        places = np.cumsum(rng.integers(3, 9, 2 * (1 + number % 3)))
        spans = list(zip(places[::2].tolist(), places[1::2].tolist(), strict=True))
        is_target = np.zeros(spans[-1][1], dtype=bool)
        for start, end in spans:
            is_target[start:end] = True
        is_target[2:] |= partner_too
        example = Example(
            some(len(is_target)), is_target, f"d{number}", tuple(s for s, _ in spans), tuple(e for _, e in spans),
            tuple(range(len(spans))),
        )  # fmt: skip
        replies = range(len(spans)) if number != 4 else ()
        ranked = tuple(Ranked(reply, tuple(some(n) for n in rng.integers(1, 8, 3).tolist())) for reply in replies)
        found.append(Unit(example, ranked))
    return found


def forward_of(model):
    return Forward(model, head_of(model), None)


def objective_of(as_tree, monkeypatch, *, partner_too=False):
    """Return the objective, told whether prompts can be shared."""
    monkeypatch.setattr(ranking, "shares_prompts", lambda *_: (as_tree, "a test"))
    some = units(partner_too=partner_too)
    split = RankedSplit([unit.example for unit in some], Given([unit.ranked for unit in some]))
    objective = RankingObjective(split, split, RankingConfig(weight=WEIGHT, scale=SCALE), 0)
    objective.adapt_to(None)
    return objective


class Given:
    """Distractors that are given, not drawn."""

    def __init__(self, ranked):
        self.ranked = ranked

    def draw(self, epoch, index):
        return self.ranked[index]


def plain(model, some):
    """Return the step's loss, text by text and by the model's own forward pass, and what it consists of."""

    def log_probabilities(ids, start):
        ids = torch.from_numpy(np.asarray(ids, dtype=np.int64))
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        found = F.log_softmax(logits, dim=-1)
        return torch.stack([found[place - 1, ids[place]] for place in range(start, len(ids))])

    nll, ranking, correct, num_targets = 0.0, [], 0, 0
    for unit in some:
        example = unit.example
        gold = [
            log_probabilities(example.ids[:e], s) for s, e in zip(example.reply_starts, example.reply_ends, strict=True)
        ]
        every = log_probabilities(example.ids, 1)[torch.from_numpy(example.is_target[1:])]
        nll = nll - every.sum()
        num_targets += len(every)
        for one in unit.ranked:
            prompt = example.ids[: example.reply_starts[one.reply]]
            means = [log_probabilities(np.append(prompt, ids), len(prompt)).mean() for ids in one.distractors]
            scores = torch.stack([gold[one.reply].mean(), *means])
            ranking.append(F.cross_entropy(SCALE * scores[None], torch.zeros(1, dtype=torch.int64)))
            correct += bool(scores[0] > scores[1:].max())
    loss = nll / num_targets + WEIGHT * torch.stack(ranking).mean()
    figures = {
        "loss": float(nll.detach()) / num_targets, "ranking_loss": float(torch.stack(ranking).mean().detach()),
        "ranking_accuracy": correct / len(ranking), "ranked_replies": len(ranking),
    }  # fmt: skip
    return loss, figures


def gradient(model, objective, indices, micro_tokens, ranks):
    """Return the figures of a step, the gradient, and this rank's batches."""
    parameters, items = list(trainable_tensors(model).values()), objective.items(indices, 0)
    groups = micro_batches(range(len(items)), objective.sizes(items), micro_tokens, ranks.number, ranks.count)
    batches, counts = [objective.batch([items[i] for i in group]) for group in groups], objective.counts(items)
    terms = accumulate_gradient(batches, counts, objective, forward_of(model), parameters, ranks)
    figures = figures_of(objective, terms, counts) | {"ranked_replies": objective.facts(items)["ranked_replies"]}
    found = [parameter.grad.clone() for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return figures, found, batches


@pytest.mark.parametrize("partner_too", [False, True])
def test_loss_and_gradient_equal_plain_float64_however_they_are_computed_and_cut(models, partner_too, monkeypatch):
    model, exact = models
    loss, expected = plain(exact, units(partner_too=partner_too))
    expected_grads = torch.autograd.grad(loss, list(trainable_tensors(exact).values()))
    assert expected["ranking_accuracy"] < 1 and expected["ranking_loss"] > 0.5
    for as_tree in (True, False):
        objective = objective_of(as_tree, monkeypatch, partner_too=partner_too)
        for micro_tokens, num_batches in ((1, 8), (100_000, 1)):
            figures, grads, batches = gradient(model, objective, range(8), micro_tokens, Ranks(CPU))
            assert len(batches) == num_batches and figures == pytest.approx(expected, rel=1e-5)
            for ours, theirs in zip(grads, expected_grads, strict=True):
                torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=2e-5)


def test_two_ranks_add_up_to_one(models, monkeypatch):
    model, _ = models

    class Half:
        count = 2

        def __init__(self, number):
            self.number = number

        def sum(self, values):
            return values

    objective = objective_of(True, monkeypatch)
    parts, halves, shares = zip(*(gradient(model, objective, range(8), 60, Half(n)) for n in (0, 1)), strict=True)
    names = [name for share in shares for batch in share for name in batch.dialogue_ids]
    assert sorted(names) == sorted(f"d{number}" for number in range(8)) and all(shares)
    whole, grads, _ = gradient(model, objective, range(8), 100_000, Ranks(CPU))
    for name in ("loss", "ranking_loss", "ranking_accuracy"):
        assert sum(part[name] for part in parts) == pytest.approx(whole[name], rel=1e-5)
    for one, other, theirs in zip(*halves, grads, strict=True):
        torch.testing.assert_close(one + other, theirs, rtol=1e-3, atol=1e-5)


def test_a_step_without_ranked_replies_trains_the_language_model_alone(models, monkeypatch):
    model, _ = models
    figures, grads, _ = gradient(model, objective_of(True, monkeypatch), [4], 1000, Ranks(CPU))
    assert set(figures) == {"loss", "ranked_replies"} and figures["ranked_replies"] == 0
    assert any(grad.any() for grad in grads)


def test_a_tie_is_a_loss():
    batch = collate_units([units()[0]], 0, as_tree=True)
    sizes = torch.tensor(batch.sizes)
    # One nat for every token: all means are equal.
    assert ranking.ranked_sums(batch, torch.ones(int(sizes.sum())), SCALE)[2] == 0


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_a_model_is_asked_whether_prompts_can_be_shared_and_the_answer_is_right(kind):
    model = adapted_of(kind)
    unit = units(vocabulary=90)[5]
    shares, why = ranking.shares_prompts(forward_of(model), unit, 0)
    assert model.training and why
    if kind in ("llama", "neox", "gemma"):
        assert shares
    if kind in ("mamba", "mamba2", "rwkv", "bloom"):
        assert not shares
    if shares:
        model.eval()
        tree, rows = (
            nlls(model, collate_units([unit], 0, as_tree=one).batch, head_on_targets=head_of(model), autocast=None)
            for one in (True, False)
        )
        torch.testing.assert_close(tree, rows, rtol=1e-4, atol=1e-4)


def adapted_of(kind):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[kind])).train()
