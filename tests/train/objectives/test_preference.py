"""Are DPO's loss and gradient those of a plain float64 implementation, on both paths and however a step is cut?"""

import copy
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from falcon_tiny import tiny_falcon
from falconer.data.batch import micro_batches
from falconer.data.encode import Encoder
from falconer.model.falcon.attach import enable, fast_path_of
from falconer.model.lora import add_adapter, trainable_tensors
from falconer.model.output_head import head_of
from falconer.model.tokenizer import load_tokenizer
from falconer.records import PreferencePair, Turn
from falconer.train.objectives.drift import Start
from falconer.train.objectives.objective import Forward, loss_of
from falconer.train.objectives.preference import (
    EncodedPair,
    PreferenceObjective,
    Settings,
    encode_pairs,
    margins,
)
from falconer.train.objectives.replies import reply_row
from falconer.train.ranks import Ranks
from falconer.train.step import accumulate_gradient, validation_terms
from tiny import config_of

CPU = torch.device("cpu")
SETTINGS = (Settings(0.3, False, 0.0), Settings(4.0, True, 0.5))


def tiny_llama():
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config_of("llama", 500, 11)).requires_grad_(False)
    adapted = add_adapter(base, r=4, alpha=8, dropout=0.0, targets="all-linear", seed=0).train()
    with torch.no_grad():
        for parameter in trainable_tensors(adapted).values():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return adapted


def random_pairs():
    """Return eight pairs of unlike lengths, and what a starting model would think of their 16 rows."""
    rng = np.random.default_rng(4)

    def ids(least, most):
        return rng.integers(20, 480, rng.integers(least, most)).tolist()

    pairs = []
    for number in range(8):
        prompt = ids(3, 30)
        rows = (reply_row(prompt, [*ids(1, 9), 11], f"d{number}") for _ in range(2))
        pairs.append(EncodedPair("made up", *rows))
    sizes = np.array([row.num_targets for pair in pairs for row in pair.rows])
    return pairs, (-6.0 * sizes + rng.normal(size=16)).astype(np.float32)


def objective_of(settings):
    pairs, reference = random_pairs()
    objective = PreferenceObjective(pairs, pairs, settings, 0)
    objective.begin((reference, reference), Start((), None))
    return objective


@pytest.fixture(params=["llama", "falcon", "falcon, fast path"], scope="module")
def model(request):
    made = tiny_llama() if request.param == "llama" else tiny_falcon(torch.float32, targets="all-linear")
    if request.param.endswith("path"):
        enable(made)
    assert (fast_path_of(made) is not None) == request.param.endswith("path")
    return made


def plain(model, settings):
    """Return (loss, margins) in float64, by the model's own forward pass, a row at a time, as the papers write it."""
    pairs, reference = random_pairs()
    losses, found = [], []
    for number, pair in enumerate(pairs):
        sums, gains = [], []
        for side, row in enumerate(pair.rows):
            ids = torch.from_numpy(row.ids.astype(np.int64))
            logits = model(input_ids=ids[None], use_cache=False).logits[0]
            log_probabilities = F.log_softmax(logits, dim=-1)[torch.arange(len(ids) - 1), ids[1:]]
            sums.append(log_probabilities[row.reply_starts[0] - 1 :].sum())
            divisor = row.num_targets if settings.length_normalised else 1
            gains.append((sums[-1] - float(reference[2 * number + side])) / divisor)
        margin = settings.beta * (gains[0] - gains[1])
        chosen = -sums[0] / pair.chosen.num_targets
        losses.append(torch.log(1 + torch.exp(-margin)) + settings.sft_weight * chosen)
        found.append(float(margin.detach()))
    return torch.stack(losses).mean(), found


def exact_copy(model):
    path = fast_path_of(model)
    made = copy.deepcopy(model) if path is None else tiny_falcon(torch.float64, targets="all-linear")
    return made.double()


def gradient(model, objective, micro_tokens):
    parameters, items = list(trainable_tensors(model).values()), objective.items(range(8), 0)
    assert objective.sizes(items) == objective.lengths
    groups = micro_batches(range(8), objective.sizes(items), micro_tokens, 0, 1)
    forward = Forward(model, head_of(model), None)
    terms = accumulate_gradient(
        [objective.batch([items[index] for index in group]) for group in groups],
        objective.counts(items),
        objective,
        forward,
        parameters,
        Ranks(CPU),
    )
    found = [parameter.grad.clone() for parameter in parameters]
    model.zero_grad(set_to_none=True)
    return terms, found, len(groups)


@pytest.mark.parametrize("settings", SETTINGS)
def test_loss_margin_and_gradient_are_those_of_float64_however_a_step_is_cut(model, settings):
    exact = exact_copy(model)
    loss, expected_margins = plain(exact, settings)
    expected = torch.autograd.grad(loss, list(trainable_tensors(exact).values()))
    expected_loss, counts = float(loss.detach()), set()
    for micro_tokens in (1, 150, 10_000):
        objective = objective_of(settings)
        terms, found, num_batches = gradient(model, objective, micro_tokens)
        counts.add(num_batches)
        assert float(loss_of(torch.tensor(terms), (1,) * 4, objective.weights)) == pytest.approx(
            expected_loss, rel=2e-5
        )
        assert terms[2] == pytest.approx(np.mean(expected_margins), rel=1e-4, abs=1e-5)
        assert terms[3] == 100 * np.mean(np.array(expected_margins) > 0)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=2e-5)
    assert {1, 8} < counts


def test_validation_is_the_mean_over_the_pairs_without_dropout(model):
    objective = objective_of(SETTINGS[1])
    forward = Forward(model, head_of(model), None)
    items = objective.validation_items()
    whole, cut = (
        validation_terms(objective, forward, batches, objective.counts(items), Ranks(CPU))
        for batches in ([objective.batch(items)], [objective.batch([item]) for item in items])
    )
    assert whole == pytest.approx(cut, rel=1e-5)
    expected, _ = plain(exact_copy(model), SETTINGS[1])
    assert whole[0] + 0.5 * whole[1] == pytest.approx(float(expected.detach()), rel=2e-5)


def test_the_loss_is_the_one_that_trl_computes():
    """trl's loss of type "sigmoid", -logsigmoid(beta * (logratios - ref_logratios)), worked out by hand."""
    sums = torch.tensor([-10.0, -20.0, -12.0, -18.0])  # two chosen, two rejected
    reference = torch.tensor([-11.0, -19.0, -11.5, -18.5])
    sizes = torch.tensor([4.0, 5.0, 2.0, 10.0])
    # (-10 + 12) - (-11 + 11.5) = 1.5 and (-20 + 18) - (-19 + 18.5) = -1.5
    found = margins(sums, reference, sizes, Settings(0.1, False, 0.0))
    torch.testing.assert_close(found, torch.tensor([0.15, -0.15]))
    assert (-F.logsigmoid(found)).tolist() == pytest.approx([0.6209570, 0.7709570], abs=1e-6)
    assert -math.log(1 / (1 + math.exp(-0.15))) == pytest.approx(0.6209570, abs=1e-6)
    # Gains of 1, -1, -0.5 and 0.5, each divided by its tokens.
    normalised = margins(sums, reference, sizes, Settings(2.0, True, 0.0))
    torch.testing.assert_close(normalised, torch.tensor([2 * (1 / 4 + 0.5 / 2), 2 * (-1 / 5 - 0.5 / 10)]))


def test_at_the_start_the_loss_is_the_logarithm_of_two():
    sums = torch.tensor([-3.0, -5.0])
    for settings in SETTINGS:
        margin = margins(sums, sums, torch.tensor([1.0, 2.0]), settings)
        assert float(-F.logsigmoid(margin)) == pytest.approx(math.log(2), rel=1e-6)


def test_both_rows_of_a_pair_have_the_prompt_that_the_longer_reply_leaves_room_for():
    tokenizer, end_id = load_tokenizer("falcon-mini")
    history = tuple(Turn(("partner", "self")[index % 2], f"i like dog number {index} .") for index in range(9))
    pair = PreferencePair("made up", "d", 9, ("i ski .",), history, "yes .", "no . " * 12)
    whole, cut = (
        encode_pairs([pair], Encoder(tokenizer.backend_tokenizer.to_str(), end_id, most)) for most in (512, 110)
    )
    assert whole[1] == cut[1] == 0
    for (one,), _ in (whole, cut):
        start = one.chosen.reply_starts[0]
        assert one.chosen.ids[:start].tolist() == one.rejected.ids[:start].tolist()
        assert one.chosen.ids[-1] == one.rejected.ids[-1] == end_id
        assert one.num_tokens == 2 * len(one.rejected.ids) > 2 * len(one.chosen.ids)
    assert len(cut[0][0].rejected.ids) <= 110 < len(whole[0][0].rejected.ids)
    assert encode_pairs([pair], Encoder(tokenizer.backend_tokenizer.to_str(), end_id, 40)) == ([], 1)
