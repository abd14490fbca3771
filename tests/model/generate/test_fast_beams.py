"""Beam search on the fast path against transformers' own, and against the rules in plain Python."""

import pytest
import torch

from decoded import DIALOGUE, END, PROMPTS, asked, forward_of, listen_to_passes, model_of, ours
from falcon_tiny import LAYOUTS, VOCAB
from falconer.kernels import fused
from falconer.model.generate.fast_beams import decode_beams
from falconer.model.request import Decoding, Request
from model.generate.test_batch import stock
from model.generate.test_beams import plainly

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(request):
    return model_of(layout=getattr(request, "param", "7b"))


def theirs(model, stops, num_beams, **options):
    replies = stock(model, stops=stops, num_beams=num_beams, **options)
    # generate fills what is shorter than its longest beam with the end token.
    ends = [next((at for at, token in enumerate(reply) if token in stops), len(reply)) for reply in replies]
    return [reply[: end + 1] for reply, end in zip(replies, ends, strict=True)]


@pytest.mark.parametrize(
    ("num_beams", "length_penalty", "num_slots"), [(2, 1.0, None), (4, 1.0, 5), (4, 0.0, 9), (3, -0.5, 1)]
)
@pytest.mark.parametrize("model", LAYOUTS, indirect=True)
def test_replies_are_those_of_generate(model, num_beams, length_penalty, num_slots):
    stops = tuple(range(0, VOCAB, 9))
    how = Decoding(7, num_beams=num_beams, length_penalty=length_penalty)
    found = ours(model, num_slots=num_slots, stops=stops, decoding=how)
    assert found == theirs(model, stops, num_beams, length_penalty=length_penalty)
    assert {len(reply) for reply in found} != {7}, "some reply was ended"
    assert found != ours(model, stops=stops)


def test_the_kernels_search_the_same(model):
    how = Decoding(3, num_beams=2)
    assert ours(model, PROMPTS[4:6], decoding=how, ops=fused) == ours(model, PROMPTS[4:6], decoding=how)


def test_penalty_and_n_grams_without_stop_tokens_are_those_of_generate(model):
    how = Decoding(9, 0, 0.9, 0.7, num_beams=3, no_repeat_ngram_size=2, no_repeat_ngram_scope="prompt")
    options = {"repetition_penalty": 0.7, "no_repeat_ngram_size": 2, "max_new_tokens": 9}
    assert ours(model, stops=(), decoding=how) == theirs(model, (), 3, **options)


def test_requests_with_and_without_beams_share_a_call(model):
    kinds = [
        Decoding(7, num_beams=3, stops=(END,)), Decoding(5, stops=()),
        Decoding(6, num_beams=2, stops=tuple(range(0, VOCAB, 5)), no_repeat_ngram_size=1), Decoding(1, num_beams=4),
        Decoding(6, temperature=1.5, stops=()), Decoding(4, num_beams=5, repetition_penalty=1.5, stops=(END,)),
        Decoding(9, num_beams=2, length_penalty=0.3, stops=(END, 7)),
    ]  # fmt: skip
    requests = [Request(prompt, kind, number) for number, (prompt, kind) in enumerate(zip(PROMPTS, kinds, strict=True))]
    alone = [asked(model, [request])[0] for request in requests]
    assert asked(model, requests, 7) == asked(model, requests[::-1], 3)[::-1] == alone
    assert asked(model, requests, 7, share=2**-16) == alone


def test_in_double_precision_it_is_the_plain_search():
    model = model_of(torch.float64)

    def logits(text):
        with torch.no_grad():
            return model(torch.tensor([list(text)]), use_cache=False).logits[0, -1].tolist()

    how = Decoding(5, num_beams=3, repetition_penalty=1.4, no_repeat_ngram_size=2, stops=tuple(range(0, VOCAB, 7)))
    requests = [Request(prompt, how) for prompt in (DIALOGUE[:20], [400], DIALOGUE[:8])]
    assert asked(model, requests) == [plainly(request, logits) for request in requests]


def test_a_prompt_is_computed_once_for_all_beams(model, monkeypatch):
    sizes = listen_to_passes(monkeypatch)
    ours(model, [DIALOGUE[:60], DIALOGUE[:30]], decoding=Decoding(3, num_beams=4), stops=())
    assert sizes == [60, 8, 8]


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
def test_on_a_gpu_it_is_what_the_cpu_searches(layout):
    how = Decoding(6, num_beams=3, no_repeat_ngram_size=2, stops=(END,))
    requests = [Request(prompt, how) for prompt in PROMPTS]
    expected = asked(model_of(layout=layout), requests)
    none = torch.tensor([], dtype=torch.int64, device="cuda")
    found = decode_beams(forward_of(model_of(layout=layout, device="cuda"), fused), requests, none, 4)
    assert [reply for _, reply in sorted(found)] == expected
