"""What is chosen in each row, and what is told of it."""

from typing import Any

import pytest
import torch

from falconer.model.generate.generic_choice import Choice
from falconer.model.generate.key_values import fill
from falconer.model.request import Decoding, Joining, Request, Writing

NONE = torch.tensor([], dtype=torch.int64)


def reply(prompt: list[int], **decoding: Any) -> Writing:
    return Writing(Joining(Request(prompt, Decoding(**decoding))), [])


def choice(replies: list[Writing], unknown: torch.Tensor = NONE) -> Choice:
    return Choice(replies, 6, unknown)


def test_each_row_is_penalised_for_its_own_tokens_alone() -> None:
    rows = [reply([3], repetition_penalty=2.0), reply([4]), reply([4], repetition_penalty=2.0)]
    chosen = choice(rows)
    logits_V = torch.tensor([0.0, 0.0, 2.5, 4.0, 3.9, 3.0])
    assert [said.token for said in chosen.next(logits_V.repeat(3, 1))] == [4, 3, 3]
    assert [said.token for said in chosen.next(logits_V.repeat(3, 1))] == [5, 3, 5], "what was said counts, too"


def test_an_n_gram_of_a_row_is_not_said_again() -> None:
    rows = [reply([3], no_repeat_ngram_size=2), reply([3]), reply([5], no_repeat_ngram_size=1, stops=(4,))]
    chosen, logits_V = choice(rows), torch.tensor([0.0, 0.0, 2.5, 4.0, 3.9, 3.0])
    for _ in range(4):
        for row, said in zip(rows, chosen.next(logits_V.repeat(3, 1)), strict=True):
            row.said.append(said)
    assert [[said.token for said in row.said] for row in rows] == [[3, 3, 4, 3], [3, 3, 3, 3], [3, 4, 4, 4]]
    # One that is made anew goes on from what was said.
    assert [said.token for said in choice(rows).next(logits_V.repeat(3, 1))] == [5, 3, 4]


def test_log_probabilities_are_the_models_own_over_what_can_be_said() -> None:
    rows = [
        reply([3], repetition_penalty=9.0, num_logprobs=2), reply([3]),
        reply([3], temperature=2.0, top_k=1, num_logprobs=0),
    ]  # fmt: skip
    logits_V = torch.tensor([0.0, 1.0, 2.0, 4.0, 9.0, 3.0])
    first, second, third = choice(rows, torch.tensor([4])).next(logits_V.repeat(3, 1))
    logits_V[4] = -torch.inf
    expected = logits_V.log_softmax(0).tolist()
    assert (first.token, second.token, third.token) == (5, 3, 3)
    assert first.logprob == pytest.approx(expected[5])
    assert [token for token, _ in first.top] == [3, 5]
    assert [value for _, value in first.top] == pytest.approx([expected[3], expected[5]])
    assert (second.logprob, second.top) == (None, ())
    assert third.logprob == pytest.approx(expected[3]) and third.top == ()


def test_a_sample_depends_on_the_number_of_tokens_so_far() -> None:
    logits_V = torch.zeros(6)
    row = reply([3], temperature=1.0, top_p=1.0)
    chosen, found = choice([row]), []
    for _ in range(12):
        row.said += chosen.next(logits_V[None].clone())
        found.append(row.said[-1].token)
    again = reply([1], temperature=1.0, top_p=1.0)
    again.said = row.said[:7]
    assert choice([again]).next(logits_V[None].clone())[0].token == found[7]
    assert len(set(found)) > 2


@pytest.mark.parametrize("gone", [[0], [1, 3], [4], [0, 1, 2, 4], [3, 4]])
def test_rows_that_stay_go_on_as_before_when_others_leave(gone: list[int]) -> None:
    ways: list[dict[str, Any]] = [
        {"repetition_penalty": 2.0}, {"temperature": 1.0, "top_p": 1.0}, {"no_repeat_ngram_size": 2},
        {"temperature": 1.5, "top_k": 4, "no_repeat_ngram_size": 1, "stops": (4,)}, {"num_logprobs": 2},
    ]  # fmt: skip
    rows = [reply([3, place], **how) for place, how in enumerate(ways)]
    chosen, logits_V = choice(rows), torch.tensor([0.0, 0.5, 2.5, 4.0, 3.9, 3.0])
    for step in range(5):
        if step == 2:
            chosen.remove(gone)
            fill(rows, gone)
        expected = choice(rows).next(logits_V.repeat(len(rows), 1))
        found = chosen.next(logits_V.repeat(len(rows), 1))
        assert found == expected and len(found) == len(rows)
        for row, said in zip(rows, found, strict=True):
            row.said.append(said)
