"""Batches on the fast path against transformers' own `generate`, one prompt at a time, token by token."""

import pytest
import torch

from decoded import DIALOGUE, END, PROMPTS, asked, forward_of, listen_to_passes, model_of, ours, requests_of
from falcon_tiny import LAYOUTS, VOCAB
from falconer.kernels import fused, reference
from falconer.model.generate import prefix as branch
from falconer.model.generate.batch import decode
from falconer.model.lora import without_adapter
from falconer.model.request import Decoding, Request

pytestmark = pytest.mark.usefixtures("one_thread")


def stock(model, prompts=PROMPTS, stops=(END,), **options):
    replies = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        output = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=END,
            eos_token_id=list(stops) or None, **{"max_new_tokens": 7} | options,
        )  # fmt: skip
        replies.append(output[0, len(prompt) :].tolist())
    return replies


@pytest.fixture(scope="module")
def model(request):
    return model_of(layout=getattr(request, "param", "7b"))


@pytest.fixture(scope="module")
def expected(model):
    return stock(model)


@pytest.fixture(scope="module")
def stops(expected):
    """Tokens that end some of the replies at their first token, some in their midst, and some never."""
    return (END, expected[0][0], expected[1][3])


@pytest.mark.parametrize(
    ("ops", "num_slots"), [(reference, None), (reference, 1), (reference, 2), (reference, 3), (fused, 2)]
)
@pytest.mark.parametrize("model", LAYOUTS, indirect=True)
def test_greedy_tokens_are_those_of_generate(model, stops, ops, num_slots):
    replies = ours(model, stops=stops, num_slots=num_slots, ops=ops)
    assert replies == stock(model, stops=stops)
    assert {1, 7} < {len(reply) for reply in replies}, "replies leave their slots at different steps"


def test_the_prompts_matter(expected):
    assert len({tuple(reply) for reply in expected}) == len(PROMPTS) - 1


def test_without_stop_tokens_every_reply_gets_all_its_tokens(model):
    replies = ours(model, stops=(), num_slots=2)
    assert replies == stock(model, stops=())
    assert {len(reply) for reply in replies} == {7}


@pytest.mark.parametrize("count", [1, 2])
def test_replies_of_one_token_and_of_two(model, count):
    assert ours(model, decoding=Decoding(count)) == stock(model, max_new_tokens=count)


def test_the_adapter_on_and_off(model, expected):
    with without_adapter(model):
        base = ours(model)
        assert base == stock(model)
    assert base != expected


def test_adapters_in_training_mode_drop_nothing_out(expected):
    model = model_of(dropout=0.5)
    assert ours(model.train()) == expected


@pytest.mark.parametrize(
    "settings", [{}, {"cache_weights": True}, {"fused": True}, {"fused": True, "ops": fused}], ids=str
)
@pytest.mark.parametrize("layout", ["7b", "40b"])
def test_4_bit_weights_in_every_way(settings, layout):
    model, prompts = model_of(nf4=True, layout=layout), [DIALOGUE[:30], DIALOGUE[:3], [400]]
    found = ours(model, prompts, num_slots=2, decoding=Decoding(3), **settings)
    assert found == stock(model, prompts, max_new_tokens=3)


def test_a_cache_too_small_for_all_takes_them_in_turns(model, expected, monkeypatch):
    monkeypatch.setattr(branch, "MOST_CACHE_BYTES", 1)
    monkeypatch.setattr(branch, "PASS_TOKENS", {"cpu": 1})
    assert ours(model) == expected


@pytest.mark.parametrize("model", LAYOUTS, indirect=True)
def test_a_repetition_penalty_sees_prompt_and_reply_but_spares_what_stops(model):
    decoding = Decoding(max_new_tokens=7, repetition_penalty=1.7)
    alone = [ours(model, [prompt], decoding=decoding)[0] for prompt in PROMPTS]
    together = ours(model, num_slots=2, decoding=decoding)
    assert together == alone != ours(model, num_slots=2)
    # transformers spares nothing, and neither do we without stop tokens.
    assert ours(model, num_slots=3, stops=(), decoding=decoding) == stock(model, stops=(), repetition_penalty=1.7)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_n_gram_of_prompt_and_reply_is_said_again(model, size):
    decoding = Decoding(12, no_repeat_ngram_size=size, no_repeat_ngram_scope="prompt", repetition_penalty=0.6)
    options = {"max_new_tokens": 12, "repetition_penalty": 0.6}
    expected = stock(model, stops=(), no_repeat_ngram_size=size, **options)
    assert ours(model, num_slots=3, stops=(), decoding=decoding) == expected != stock(model, stops=(), **options)


@pytest.mark.parametrize("model", LAYOUTS, indirect=True)
def test_what_is_sampled_depends_on_seed_and_number_and_not_on_the_batch(model):
    def sampled(seed, num_slots, prompts=PROMPTS):
        decoding = Decoding(max_new_tokens=7, temperature=1.5, top_p=0.95, top_k=50, seed=seed)
        return ours(model, prompts, num_slots, decoding=decoding)

    assert sampled(1, None) == sampled(1, 1) == sampled(1, 2)
    assert sampled(1, 2) != sampled(2, 2)
    replies = sampled(1, 2, [PROMPTS[0]] * 4)
    assert len({tuple(reply) for reply in replies}) == 4, "equal prompts draw for themselves"


def test_the_longest_dialogues_come_first(model):
    none = torch.tensor([], dtype=torch.int64)
    order = [n for n, _ in decode(forward_of(model), requests_of(decoding=Decoding(3), stops=()), none, 1)]
    assert order == [1, 3, 0, 4, 5, 6, 2]


def test_a_dialogue_is_computed_once(model, monkeypatch):
    sizes = listen_to_passes(monkeypatch)
    ours(model, [DIALOGUE[:n] for n in (90, 60, 30)], decoding=Decoding(2), stops=())
    assert sizes == [90, 3]


def test_a_smaller_share_of_memory_changes_no_reply(model, expected):
    assert asked(model, requests_of(), 4, share=2**-16) == expected


OWN = ((1, 4), (5, 9))
MIXED = [
    Decoding(7, stops=(END,)),
    Decoding(2, temperature=1.5, top_p=0.95, seed=3, stops=()),
    Decoding(7, repetition_penalty=1.7, stops=(END, 400)),
    Decoding(1, temperature=0.7, stops=(END,)),
    Decoding(9, temperature=1.5, top_k=50, repetition_penalty=1.3, seed=4, stops=()),
    Decoding(4, stops=tuple(range(0, VOCAB, 3))),
    Decoding(6, temperature=1.5, top_p=0.95, min_p=0.2, seed=3, stops=()),
    Decoding(9, repetition_penalty=0.5, no_repeat_ngram_size=2, stops=()),
    Decoding(
        9, repetition_penalty=0.5, repetition_penalty_scope="own", no_repeat_ngram_size=3, no_repeat_ngram_scope="own",
        stops=(END,),
    ),
]  # fmt: skip


@pytest.mark.parametrize("num_slots", [1, 3, 7])
def test_unlike_requests_of_a_batch_get_what_each_gets_alone(model, num_slots):
    pairs = zip([*PROMPTS, DIALOGUE[:20], DIALOGUE[:71]], MIXED, strict=True)
    requests = [Request(prompt, one, 5 * n, OWN if len(prompt) > 9 else ()) for n, (prompt, one) in enumerate(pairs)]
    alone = [asked(model, [request])[0] for request in requests]
    assert asked(model, requests, num_slots) == alone
    assert asked(model, requests[::-1], num_slots) == alone[::-1]
    assert [len(reply) for reply in alone][1:5:3] == [2, 9] and len(alone[3]) == 1


def test_unknown_tokens_are_never_said(model, expected):
    said = torch.tensor(sorted({token for reply in expected for token in reply}))
    found = [reply for _, reply in sorted(decode(forward_of(model), requests_of(), said, 3))]
    assert not {token for reply in found for token in reply} & set(said.tolist())
