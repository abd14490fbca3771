"""A conversation's replies against those of a batch, and what its cache spares."""

import pytest
import torch

from falcon_tiny import VOCAB, tiny_falcon
from falconer.model.falcon.four_bit import inference_path
from falconer.model.falcon.infer_pass import Forward
from falconer.model.falcon.layout import backbone_of
from falconer.model.generate import conversation as streaming
from falconer.model.generate.conversation import stream
from falconer.model.generate.sampling import Decoding
from falconer.model.generate.slots import decode
from falconer.model.lora import trainable_tensors, without_adapter

DECODING = Decoding(max_new_tokens=6)
TALK = [(37 * index + 5) % VOCAB for index in range(60)]
# A conversation goes on, is asked the same again, and starts anew.
PROMPTS = [TALK[:20], TALK[:41], TALK, TALK, TALK[:7] + [3, 4, 5], [9]]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model():
    return tiny_falcon(torch.float32, targets="all-linear", initializer_range=0.15).eval()


def alone(model, prompt, decoding=DECODING, stops=()):
    with torch.inference_mode():
        forward = Forward(inference_path(model, 1), model.get_output_embeddings())
        ((_, reply),) = decode(forward, [prompt], decoding, stops, 1)
    return reply


def said(model, prompt, decoding=DECODING, stops=()):
    with torch.inference_mode():
        return list(stream(model, prompt, decoding, stops))


@pytest.fixture
def sizes(monkeypatch):
    """Tokens of each prompt's pass."""
    found = []
    whole = streaming.extend

    def counted(forward, ids, *others):
        found.append(len(ids))
        return whole(forward, ids, *others)

    monkeypatch.setattr(streaming, "extend", counted)
    return found


def test_every_turn_is_what_a_fresh_start_gives_though_only_what_is_new_is_computed(model, sizes):
    assert [said(model, prompt) for prompt in PROMPTS] == [alone(model, prompt) for prompt in PROMPTS]
    assert sizes == [20, 21, 19, 1, 3, 1]


def test_a_reply_stops_and_may_be_left_unheard(model):
    whole = alone(model, TALK)
    assert said(model, TALK, stops=(whole[2],)) == whole[: whole.index(whole[2]) + 1]
    with torch.inference_mode():
        unheard = stream(model, TALK, DECODING, ())
        assert next(unheard) == whole[0]
        unheard.close()
    assert said(model, TALK[:41]) == alone(model, TALK[:41])


def test_sampling_and_penalty_are_those_of_a_batch(model):
    decoding = Decoding(max_new_tokens=6, temperature=1.2, repetition_penalty=1.3, seed=5)
    for prompt in PROMPTS:
        assert said(model, prompt, decoding) == alone(model, prompt, decoding)


def test_two_conversations_at_once_do_not_mix(model):
    with torch.inference_mode():
        one, other = stream(model, TALK, DECODING, ()), stream(model, PROMPTS[4], DECODING, ())
        pairs = list(zip(one, other, strict=True))
    assert [list(reply) for reply in zip(*pairs, strict=True)] == [alone(model, TALK), alone(model, PROMPTS[4])]


def test_nothing_is_kept_of_another_adapter(model, sizes):
    before = said(model, TALK)
    with without_adapter(model):
        base = said(model, TALK)
        assert base == alone(model, TALK) != before
    with torch.no_grad():
        for parameter in trainable_tensors(model).values():
            parameter.mul_(-2)
    trained = said(model, TALK)
    assert trained == alone(model, TALK) != before
    assert sizes == [60, 60, 60]


@pytest.mark.gpu
@pytest.mark.parametrize("nf4", [False, True])
def test_a_recorded_conversation_on_a_gpu(nf4):
    shape = {"hidden_size": 256, "num_attention_heads": 4, "ffn_hidden_size": 1024, "rank": 16}
    model = tiny_falcon(torch.bfloat16, nf4=nf4, device="cuda", targets="all-linear", initializer_range=0.15, **shape)
    model.eval()
    first = [said(model, prompt) for prompt in PROMPTS]
    assert all(len(reply) == 6 for reply in first)
    again = [said(model, prompt) for prompt in PROMPTS]
    # From the second turn on both see the same prompts in the same state of the cache.
    assert again[1:] == first[1:]
    assert backbone_of(model).word_embeddings.weight.is_cuda
