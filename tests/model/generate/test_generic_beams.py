"""Beam search on the generic path against transformers' own, with prompts that are shared and with texts read whole."""

from typing import Any

import pytest
import torch

from falcon_tiny import VOCAB
from falconer.model.generate.generic_prefix import PrefixPass
from falconer.model.request import Decoding, Request
from model.generate.test_generic import END, PAD, PROMPTS, batch, opinionated, replies_of, stream
from tiny import config_of

pytestmark = pytest.mark.usefixtures("one_thread")

STOPS = tuple(range(0, VOCAB, 3))


@pytest.fixture(scope="module", params=["llama", "gpt2", "mamba"])
def model(request: pytest.FixtureRequest) -> Any:
    return opinionated(config_of(request.param, VOCAB, END))


def theirs(model: Any, prompt: list[int], how: Decoding) -> list[int]:
    ids = torch.tensor([prompt])
    output = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=PAD,
        eos_token_id=list(how.stops or ()) or None, num_beams=how.num_beams, length_penalty=how.length_penalty,
        max_new_tokens=how.max_new_tokens, use_cache=False,
    )  # fmt: skip
    reply = output[0, len(prompt) :].tolist()
    end = next((at for at, token in enumerate(reply) if token in (how.stops or ())), len(reply))
    return reply[: end + 1]


@pytest.mark.parametrize("branches", [True, False])
def test_replies_are_those_of_generate_whatever_else_is_in_the_batch(
    model: Any, branches: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not branches:
        monkeypatch.setattr(PrefixPass, "works", lambda *_: False)
    kinds = (
        Decoding(6, num_beams=3, stops=STOPS),
        Decoding(4, num_beams=4, length_penalty=0.0, stops=STOPS),
        Decoding(5, num_beams=2, stops=()),
    )
    requests = [Request(prompt, kind) for prompt in PROMPTS for kind in kinds]
    expected = [theirs(model, list(request.prompt), request.decoding) for request in requests]
    plain = Request(PROMPTS[0], Decoding(5))
    replies = replies_of(model)
    assert batch(replies, [*requests, plain], 7)[:-1] == batch(replies, requests[::-1], 3)[::-1] == expected
    assert [stream(replies, request, owner) for owner, request in enumerate(requests)] == expected
    assert {len(reply) for reply in expected[::3]} != {6}, "some reply was ended"
