"""Replies on the generic path: each row of a batch by its own request, what is known of a conversation, and its end."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, MambaConfig

from falcon_tiny import VOCAB
from falconer.model.generate.generic import GenericReplies
from falconer.model.generate.generic_prefix import PrefixPass
from falconer.model.output_head import head_of
from falconer.model.request import Decoding, Request
from tiny import config_of

pytestmark = pytest.mark.usefixtures("one_thread")

END, PAD = 11, 0
# Of different lengths, so that a batch of them is padded.
PROMPTS = [[30 + 7 * index for index in range(length)] for length in (3, 21, 1, 9)]


def opinionated(config: Any) -> Any:
    """Return a model whose weights are large enough that the prompt decides what it says."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest) -> Any:
    return opinionated(config_of(request.param, VOCAB, END))


@pytest.fixture(scope="module")
def llama() -> Any:
    return opinionated(config_of("llama", VOCAB, END))


@pytest.fixture
def without_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every model be one whose prompts can't be shared, so that `generate` is asked."""
    monkeypatch.setattr(PrefixPass, "works", lambda *_: False)


def replies_of(model: Any, unknown: tuple[int, ...] = (), num_conversations: int = 2) -> GenericReplies:
    unknown_ids = torch.tensor(unknown, dtype=torch.int64)
    return GenericReplies(model, None, PAD, unknown_ids, num_conversations, lambda: head_of(model))


def batch(replies: GenericReplies, requests: list[Request], batch_size: int = 8) -> list[list[int]]:
    found: dict[int, list[int]] = {}
    for chosen, texts in replies.decode(requests, batch_size, nullcontext):
        found |= dict(zip(chosen, texts, strict=True))
    return [found[index] for index in range(len(requests))]


def stream(replies: GenericReplies, request: Request, owner: int = 1) -> list[int]:
    return list(replies.stream(owner, request, nullcontext))


def greedily(model: Any, request: Request, unknown: tuple[int, ...] = ()) -> list[int]:
    """Return a reply by the plainest loop: everything is read again for each token, without cache, pads and batch.

    The penalty is CTRL's (Keskar et al. 2019): a logit above 0 of a token that was seen is divided by it, one below
    0 multiplied. N-grams are those of the reply alone.
    """
    ids, penalty = list(request.prompt), request.decoding.repetition_penalty
    for _ in range(request.decoding.max_new_tokens):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].tolist()
        for token in set(ids) - set(request.stops):
            logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
        size, said = request.decoding.no_repeat_ngram_size, ids[len(request.prompt) :]
        known = {tuple(said[at : at + size]) for at in range(len(said) - size + 1)} if size else set()
        repeats = {one[-1] for one in known if list(one[:-1]) == said[len(said) - size + 1 :]} - set(request.stops)
        allowed = [token for token in range(VOCAB) if token not in unknown and token not in repeats]
        ids.append(max(allowed, key=logits.__getitem__))
        if ids[-1] in request.stops:
            break
    return ids[len(request.prompt) :]


@pytest.mark.parametrize("branches", [True, False])
def test_a_mixed_batch_and_a_conversation_are_the_plain_loop(
    model: Any, branches: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not branches:
        monkeypatch.setattr(PrefixPass, "works", lambda *_: False)
    kinds = (
        Decoding(8),
        Decoding(5, repetition_penalty=1.7),
        Decoding(3),
        Decoding(7, stops=tuple(range(0, VOCAB, 3))),
        Decoding(8, repetition_penalty=0.3, no_repeat_ngram_size=2),
    )
    requests = [Request(prompt, kind) for prompt in PROMPTS for kind in kinds]
    expected = [greedily(model, request) for request in requests]
    replies = replies_of(model)
    assert batch(replies, requests) == batch(replies, requests, 3) == expected
    assert [stream(replies, request, owner) for owner, request in enumerate(requests)] == expected
    assert len({reply[0] for reply in expected}) > 2, "the prompts matter"
    assert any(reply[-1] % 3 == 0 and len(reply) < 7 for reply in expected[3::5]), "some reply was stopped"


def test_what_the_tokenizer_does_not_know_is_never_said(model: Any) -> None:
    requests = [Request(prompt, Decoding(6)) for prompt in PROMPTS]
    said = {token for reply in batch(replies_of(model), requests) for token in reply}
    unknown = tuple(sorted(said))
    expected = [greedily(model, request, unknown) for request in requests]
    assert batch(replies_of(model, unknown), requests) == expected
    assert [stream(replies_of(model, unknown), request) for request in requests] == expected
    assert not said & {token for reply in expected for token in reply}


def test_what_is_sampled_depends_on_seed_and_number_alone(model: Any) -> None:
    drawn = Decoding(6, temperature=1.5, top_k=20, seed=3)
    requests = [Request(PROMPTS[0], drawn, number) for number in range(6)]
    replies = replies_of(model)
    alone = [batch(replies, [request])[0] for request in requests]
    assert batch(replies, requests) == batch(replies, [*requests, Request(PROMPTS[1])])[:6] == alone
    assert [stream(replies, request) for request in requests] == alone
    assert len(set(map(tuple, alone))) > 3


@pytest.mark.usefixtures("without_branches")
def test_what_stands_behind_a_stop_token_is_no_part_of_the_reply(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    line_break = 10
    rows = [[40, line_break, END, END], [40, END, END, END], [40, 41, 42, END], [40, 41, 42, 43]]
    monkeypatch.setattr(llama, "generate", lambda input_ids, **_: torch.cat([input_ids, torch.tensor(rows)], dim=1))
    monkeypatch.setattr("falconer.model.generate.generic.how_to_batch", lambda *_: "padded")
    requests = [Request([1, 2, 3], Decoding(4, stops=(END, line_break))) for _ in range(3)]
    requests.append(Request([1, 2, 3], Decoding(2)))
    assert batch(replies_of(llama), requests) == [[40, line_break], [40, END], [40, 41, 42, END], [40, 41]]


def test_longest_prompts_come_first_and_batches_have_the_size_that_was_asked_for(llama: Any) -> None:
    requests = [Request(prompt, Decoding(1)) for prompt in PROMPTS]
    chosen = [indices for indices, _ in replies_of(llama).decode(requests, 3, nullcontext)]
    assert chosen == [[1, 3, 0], [2]]


@pytest.mark.usefixtures("without_branches")
@pytest.mark.parametrize(("way", "sizes"), [("alone", [1] * 5), ("equal", [2, 1, 2]), ("padded", [4, 1])])
def test_a_model_that_minds_its_neighbours_is_asked_without_them(
    llama: Any, monkeypatch: pytest.MonkeyPatch, way: str, sizes: list[int]
) -> None:
    tried = []
    monkeypatch.setattr("falconer.model.generate.generic.how_to_batch", lambda *found: tried.append(found) or way)
    replies = replies_of(llama)
    requests = [Request([5] * length, Decoding(1)) for length in (4, 9, 6, 9, 4)]
    assert [len(indices) for indices, _ in replies.decode(requests, 4, nullcontext)] == sizes
    batch(replies, requests)
    assert len(tried) == 1, "it is tried once"


def test_a_conversation_reads_only_what_is_new(llama: Any) -> None:
    sizes: list[int] = []
    hook = llama.get_input_embeddings().register_forward_pre_hook(lambda _, read: sizes.append(read[0].shape[1]))
    replies, decoding = replies_of(llama), Decoding(4)
    first = stream(replies, Request(PROMPTS[1], decoding))  # which also tries whether there is a cache
    prompts = [PROMPTS[1], [*PROMPTS[1], *first, 9, 8], [*PROMPTS[1][:10], 5], [1, 2]]
    found = []
    for prompt, expected in zip(prompts, ([1], [3], [1], [2]), strict=True):
        sizes.clear()
        found.append(stream(replies, Request(prompt, decoding)))
        assert sizes == [*expected, 1, 1, 1]
    hook.remove()
    assert found == [greedily(llama, Request(prompt, decoding)) for prompt in prompts]


def test_the_least_recently_used_conversation_makes_room(llama: Any) -> None:
    replies, request = replies_of(llama, num_conversations=2), Request(PROMPTS[0], Decoding(2))
    for owner in (1, 2, 1, 3):
        stream(replies, request, owner)
    assert list(replies._known) == [1, 3]
    read, cache = replies._known[3]
    assert len(read) == cache.get_seq_length() == len(PROMPTS[0]) + 1, "the last token is not read yet"
    replies.forget(1)
    replies.forget(1)
    assert list(replies._known) == [3]


def test_a_model_without_a_cache_is_asked_for_whole_replies() -> None:
    mamba = opinionated(MambaConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, eos_token_id=END))
    replies = replies_of(mamba)
    for number, prompt in enumerate(PROMPTS):
        request = Request(prompt, Decoding(4))
        assert stream(replies, request, number) == greedily(mamba, request)
    assert not replies._known


def test_the_models_state_is_entered_for_each_pass_and_left_before_a_token_is_given(llama: Any) -> None:
    """As other replies may be asked for in between, of the base with the adapter off."""
    depth, entered = 0, 0

    @contextmanager
    def state() -> Iterator[None]:
        nonlocal depth, entered
        depth, entered = depth + 1, entered + 1
        yield
        depth -= 1

    depths: list[int] = []
    hook = llama.get_input_embeddings().register_forward_pre_hook(lambda *_: depths.append(depth))
    replies, request = replies_of(llama), Request(PROMPTS[0], Decoding(3))
    for _ in replies.stream(1, request, state):
        assert depth == 0
    for _ in replies.decode([request] * 3, 2, state):
        assert depth == 0
    hook.remove()
    assert set(depths) == {1}
    assert entered == 1 + 3 + 1 + 2 + 1, "to try, for each token, to try branches, for each batch, and at the end"
