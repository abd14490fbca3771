"""Replies and candidates on the generic path: equal to the plainest loop, at a fraction of its tokens."""

from typing import Any

import numpy as np
import pytest
import torch

from falconer.model.generate.candidates import Row
from falconer.model.generate.generic_branches import branch_replies, branch_sums
from falconer.model.generate.generic_prefix import PrefixPass
from falconer.model.output_head import head_of
from falconer.model.request import Decoding, Request
from generic_models import PAD, STOPS, UNKNOWN, VOCAB, model_of, numbers

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
KINDS = ("llama", "neox", "gemma", "gpt2")
# Two dialogues of several turns, and one that stands alone.
PROMPTS = [numbers(40)[:length] for length in (8, 40, 17, 29)] + [numbers(25, 3)[:length] for length in (25, 9)] + [[4]]
END = 11


def pass_of(model: Any) -> PrefixPass:
    return PrefixPass(model, None, PAD, UNKNOWN.device, head_of(model))


def tokens_of(model: Any) -> list[int]:
    """Return a list that gets the number of tokens of each pass."""
    counts: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: counts.append(inputs[0].numel()))
    return counts


def plain_logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double()


def plain_reply(model: Any, request: Request) -> list[int]:
    ids = list(request.prompt)
    for _ in range(request.decoding.max_new_tokens):
        logits = plain_logits(model, ids)[-1]
        logits[UNKNOWN] = -torch.inf
        ids.append(int(logits.argmax()))
        if ids[-1] in request.stops:
            break
    return ids[len(request.prompt) :]


def replies(model: Any, requests: list[Request], batch_size: int) -> tuple[list[list[int]], list[int]]:
    found: dict[int, list[int]] = {}
    order: list[int] = []
    for indices, texts in branch_replies(pass_of(model), requests, UNKNOWN, batch_size):
        order += indices
        found |= dict(zip(indices, texts, strict=True))
    return [found[index] for index in range(len(requests))], order


@pytest.mark.parametrize("kind", KINDS)
def test_replies_are_those_of_the_plain_loop_at_a_third_of_the_tokens(kind: str) -> None:
    model = model_of(kind)
    kinds = (Decoding(9, stops=(*STOPS, *range(40, 60))), Decoding(4, stops=STOPS))
    requests = [Request(prompt, kinds[at % 2], at) for at, prompt in enumerate(PROMPTS)]
    expected = [plain_reply(model, request) for request in requests]
    counts = tokens_of(model)
    for batch_size in (1, 3, 32):
        assert replies(model, requests, batch_size)[0] == expected
    assert len({tuple(reply) for reply in expected}) > 3, "the prompts matter"
    assert len({len(reply) for reply in expected}) > 2, "they end at different steps"
    dialogue = [Request(numbers(120)[:length], Decoding(4, stops=())) for length in range(30, 121, 10)]
    counts.clear()
    replies(model, dialogue, 32)
    plain = sum(len(request.prompt) for request in dialogue) + 3 * len(dialogue)
    assert sum(counts) * 3 <= plain


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_have_the_sums_of_the_plain_way_at_a_tenth_of_the_tokens(kind: str) -> None:
    model = model_of(kind)
    rows: list[Row] = [
        (number, numbers(length, start=number + length)) for number in range(len(PROMPTS)) for length in (0, 1, 5, 3)
    ]
    sums = {}
    for indices, values in branch_sums(pass_of(model), PROMPTS, rows, END, CPU, 1.0):
        assert not sums.keys() & set(indices)
        sums |= dict(zip(indices, values, strict=True))
    for index, (number, reply) in enumerate(rows):
        ids = [*PROMPTS[number], *reply, END]
        logits = plain_logits(model, ids).log_softmax(dim=1)
        expected = sum(float(logits[at - 1, ids[at]]) for at in range(len(PROMPTS[number]), len(ids)))
        np.testing.assert_allclose(sums[index], expected, rtol=1e-4)
    # As in Persona-Chat: each turn has 20 candidates, a fifteenth as long as its prompt.
    prompts = [numbers(120)[:length] for length in range(30, 121, 15)]
    many = [(number, numbers(4 + at % 3, at)) for number in range(len(prompts)) for at in range(20)]
    counts = tokens_of(model)
    assert sum(len(at) for at, _ in branch_sums(pass_of(model), prompts, many, END, CPU, 1.0)) == len(many)
    assert sum(counts) * 10 <= sum(len(prompts[number]) + len(reply) + 1 for number, reply in many)


def test_passes_are_smaller_after_memory_ran_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = model_of("llama"), [(number, numbers(4, number)) for number in range(len(PROMPTS)) for _ in range(9)]
    sizes: list[int] = []
    real = PrefixPass.read

    def read(self: PrefixPass, cache: Any, cached: Any, new: Any, places: Any) -> torch.Tensor:
        sizes.append(sum(cached) + sum(map(len, new)))
        return real(self, cache, cached, new, places)

    monkeypatch.setattr(PrefixPass, "read", read)
    whole = [dict(zip(*some, strict=True)) for some in branch_sums(pass_of(model), PROMPTS, rows, END, CPU, 1.0)]
    largest = max(sizes)
    sizes.clear()
    small = [dict(zip(*some, strict=True)) for some in branch_sums(pass_of(model), PROMPTS, rows, END, CPU, 0.02)]
    assert max(sizes) < largest / 4
    both = ({index: value for part in parts for index, value in part.items()} for parts in (whole, small))
    one, other = both
    assert one.keys() == other.keys() == set(range(len(rows)))
    np.testing.assert_allclose([one[i] for i in range(len(rows))], [other[i] for i in range(len(rows))], rtol=1e-5)


def test_nothing_is_asked_for_prompts_without_candidates() -> None:
    model = model_of("gpt2")
    assert list(branch_sums(pass_of(model), PROMPTS, [], END, CPU, 1.0)) == []
    assert max(max(prompt) for prompt in PROMPTS) < VOCAB
