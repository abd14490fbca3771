"""Prompts that are computed once on the generic path: the same as whole texts, for every model that says it can."""

from typing import Any

import numpy as np
import pytest
import torch

from falconer.model.generate.generic_prefix import PrefixPass
from falconer.model.generate.key_values import new_cache
from falconer.model.generate.prefix import PrefixGroup
from falconer.model.output_head import head_of
from generic_models import CONFIGS, PAD, UNKNOWN, VOCAB, WAYS, model_of, numbers

pytestmark = pytest.mark.usefixtures("one_thread")


def pass_of(model: Any, has_head: bool = True) -> PrefixPass:
    return PrefixPass(model, None, PAD, UNKNOWN.device, head_of(model) if has_head else None)


def logits_of(model: Any, text: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([text]), use_cache=False).logits[0].float()


@pytest.mark.parametrize("kind", CONFIGS)
def test_models_whose_rows_share_a_pass_can_branch_and_others_not(kind: str) -> None:
    assert pass_of(model_of(kind)).works(VOCAB) == (kind not in WAYS)


@pytest.mark.parametrize("has_head", [True, False])
@pytest.mark.parametrize("kind", sorted(set(CONFIGS) - set(WAYS)))
def test_what_branches_off_is_the_same_as_the_whole_text(kind: str, has_head: bool) -> None:
    model = model_of(kind)
    forward = pass_of(model, has_head)
    long, short = numbers(30), numbers(9, start=3)
    groups, lengths = [PrefixGroup(long, (0, 1)), PrefixGroup(short, (2,))], [30, 11, 9]
    computed = forward.prefill(groups, lengths)
    for number, prompt in enumerate((long, long[:11], short)):
        expected = logits_of(model, prompt)[-1]
        torch.testing.assert_close(forward.logits(computed[number].state)[0], expected, rtol=1e-4, atol=1e-4)
    tails = [numbers(2, 50), numbers(7, 60), numbers(4, 70)]
    cache = new_cache([computed[number].cache for number in range(3)], 30, 7)
    places = [(row, place) for row, tail in enumerate(tails) for place in range(len(tail))]
    states = forward.read(cache, lengths, tails, places)
    texts = zip((long, long[:11], short), tails, strict=True)
    expected = torch.cat([logits_of(model, [*prompt, *tail])[-len(tail) :] for prompt, tail in texts])
    torch.testing.assert_close(forward.logits(states), expected, rtol=1e-4, atol=1e-4)
    labels = [token for tail in tails for token in tail]
    chosen = expected.log_softmax(dim=1)[torch.arange(len(labels)), labels]
    np.testing.assert_allclose(forward.log_probabilities(states, labels), chosen.numpy(), rtol=1e-4, atol=1e-4)
    pairs = [(place, token) for place in (3, 0) for token in (7, 9)]
    firsts = forward.first_log_probabilities(states, pairs)
    np.testing.assert_allclose(
        firsts, [float(expected[place].log_softmax(dim=0)[token]) for place, token in pairs], rtol=1e-4, atol=1e-4
    )


def test_beginnings_are_not_copied() -> None:
    forward = pass_of(model_of("llama"))
    computed = forward.prefill([PrefixGroup(numbers(20), (0, 1))], [20, 5])
    (long, _), (short, _) = (computed[number].cache[0] for number in (0, 1))
    assert long.data_ptr() == short.data_ptr() and (long.shape[2], short.shape[2]) == (20, 5)
