"""The running batch on the generic path: each reply is what its request gives alone, whoever else joins and leaves."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PrefixTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, Phi3Config

from falconer.errors import FalconerError
from falconer.model.generate import generic_running
from falconer.model.generate.generic import GenericReplies
from falconer.model.generate.generic_running import SLOW, GenericRunning
from falconer.model.lora import without_adapter
from falconer.model.output_head import head_of
from falconer.model.request import Decoding, Joining, Request, Said, Writing
from generic_models import CONFIGS, IDS, PAD, SIZES, STOPS, UNKNOWN, VOCAB, model_of, numbers

pytestmark = pytest.mark.usefixtures("one_thread")


@contextmanager
def with_adapter(model: Any, name: str | None) -> Iterator[None]:
    if name is None:
        with without_adapter(model):
            yield
        model.requires_grad_(False)
        return
    before = model.active_adapter
    model.set_adapter(name)
    yield
    model.set_adapter(before)
    model.requires_grad_(False)


def alone(model: Any, joining: Joining) -> list[int]:
    """Return what the engine's replies are for one request: transformers' `generate`."""
    replies = GenericReplies(model, None, PAD, UNKNOWN, 1, lambda: head_of(model))
    ((_, (reply,)),) = replies.decode([joining.request], 1, lambda: with_adapter(model, joining.adapter))
    return reply


def running_of(model: Any, num_slots: int = 4, num_conversations: int = 3, most_bytes: float = 1e9) -> GenericRunning:
    return GenericRunning(
        model, None, PAD, UNKNOWN, num_slots=num_slots, num_conversations=num_conversations, most_bytes=most_bytes
    )


def finish(running: GenericRunning) -> list[tuple[Writing, Said]]:
    reported = []
    while running.num_running:
        reported += running.step()
    return reported + running.step()


def tokens(reply: Writing) -> list[int]:
    return [said.token for said in reply.said]


def say(running: GenericRunning, *asked: Joining) -> list[Writing]:
    replies = running.join(asked)
    finish(running)
    return replies


PROMPTS = st.one_of(
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=20),
    # Of one conversation, so that one goes on from what another has left.
    st.integers(1, 40).map(numbers),
)
SCOPES = st.sampled_from(["reply", "own", "prompt"])
DECODINGS = st.builds(
    Decoding, max_new_tokens=st.integers(1, 9), temperature=st.sampled_from([0.0, 0.0, 1.3]),
    top_k=st.sampled_from([0, 9]), repetition_penalty=st.sampled_from([1.0, 1.8]), seed=st.integers(0, 3),
    stops=st.sampled_from([(), STOPS]), num_logprobs=st.sampled_from([None, 0, 3]), min_p=st.sampled_from([0.0, 0.2]),
    no_repeat_ngram_size=st.sampled_from([0, 1, 3]), repetition_penalty_scope=SCOPES, no_repeat_ngram_scope=SCOPES,
)  # fmt: skip


def arrivals(adapters: Sequence[str | None]) -> st.SearchStrategy[Any]:
    """Return what happens before each step: requests that join, and the place of one that is left."""
    joining = st.builds(
        Joining,
        st.builds(Request, PROMPTS, DECODINGS, st.integers(0, 3), st.sampled_from([(), ((0, 1),)])),
        st.sampled_from(list(adapters)),
    )
    return st.lists(st.tuples(st.lists(joining, max_size=3), st.none() | st.integers(0, 3)), max_size=5)


def check(model: Any, running: GenericRunning, events: Sequence[tuple[list[Joining], int | None]]) -> None:
    """Let requests join and leave, and compare each reply and each report of it with the request alone."""
    replies: list[Writing] = []
    reported: list[tuple[Writing, Said]] = []
    left = []
    for asked, place in events:
        replies += running.join(asked[: running.num_slots - running.num_running])
        reported += running.step()
        if place is not None and place < len(replies) and not replies[place].is_done:
            running.leave(replies[place])
            left.append(replies[place])
    reported += finish(running)
    for reply in replies:
        expected = alone(model, reply.joining)
        assert tokens(reply) == (expected[: len(reply.said)] if reply in left else expected)
        assert [said for one, said in reported if one is reply] == reply.said
        assert reply.is_done
        assert 0 <= reply.num_cached <= len(reply.request.prompt)
        num = reply.request.decoding.num_logprobs
        assert all((said.logprob is None) == (num is None) and len(said.top) == (num or 0) for said in reply.said)


@pytest.fixture(scope="module", params=list(CONFIGS))
def lone(request: pytest.FixtureRequest) -> tuple[str, Any, GenericRunning]:
    model = model_of(request.param)
    return request.param, model, running_of(model)


@settings(max_examples=6, deadline=None)
@given(events=arrivals([None]))
def test_each_reply_is_its_requests_own_whatever_the_cache_is(
    lone: tuple[str, Any, GenericRunning], events: Any
) -> None:
    _, model, running = lone
    check(model, running, events)


# Rows of several adapters in one pass; one adapter after the other, by type and by trial; each reply by itself.
ADAPTED = {
    "mixed": ("llama", {}, ""),
    "dora": ("llama", {"use_dora": True}, "has more than a plain LoRA"),
    "flat": ("opt", {}, "a layer's input has no dimension for the rows"),
    "recurrent": ("mamba", {}, ""),
}


@pytest.fixture(scope="module", params=list(ADAPTED))
def adapted(request: pytest.FixtureRequest) -> tuple[str, Any, GenericRunning]:
    kind, lora, _ = ADAPTED[request.param]
    model = model_of(kind, 3, **lora)
    return request.param, model, running_of(model)


@settings(max_examples=5, deadline=None)
@given(events=arrivals([None, "a0", "a1", "a2"]))
def test_each_reply_is_its_own_adapters(adapted: tuple[str, Any, GenericRunning], events: Any) -> None:
    name, model, running = adapted
    check(model, running, events)
    assert running.why_apart.endswith(ADAPTED[name][2])
    assert bool(running.why_apart) == bool(ADAPTED[name][2])
    assert running.notes == (
        (f"Replies of different adapters are generated one adapter after the other: {running.why_apart}.",)
        if running.way == "batch" and running.why_apart else tuple(filter(None, (SLOW.get(running.way),)))
    )  # fmt: skip
    assert model.active_adapter == "a0"
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_adapters_matter_and_share_passes_where_they_can(adapted: tuple[str, Any, GenericRunning]) -> None:
    name, model, _ = adapted
    running = running_of(model)
    sizes: list[int] = []
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda _, read: sizes.append(len(read[0])))
    request = Request(numbers(5), Decoding(6, stops=()))
    replies = say(running, *(Joining(request, adapter) for adapter in (None, "a0", "a1", "a2")))
    hook.remove()
    assert sizes == ([4] * 6 if name == "mixed" else [1] * 24)
    assert len({tuple(tokens(reply)) for reply in replies}) == 4


def test_a_learned_prompt_is_read_with_every_token() -> None:
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    torch.manual_seed(1)
    model: Any = get_peft_model(model_of("llama"), config, adapter_name="a0")
    model.add_adapter("a1", config)
    model = model.double().eval()
    running = running_of(model)
    assert (running.way, running.why_apart) == ("uncached", "an adapter is a learned prompt")
    assert running.notes == (SLOW["uncached"],)
    asked = [
        Joining(Request(numbers(length, length), Decoding(5, stops=STOPS)), adapter)
        for length, adapter in ((9, "a1"), (3, "a0"), (9, None))
    ]
    assert [tokens(reply) for reply in say(running, *asked)] == [alone(model, one) for one in asked]


@pytest.fixture(scope="module")
def llama() -> Any:
    return model_of("llama")


def test_a_conversation_reads_only_what_is_new(llama: Any) -> None:
    running, sizes = running_of(llama), []
    decoding = Decoding(4, stops=())
    (first,) = say(running, Joining(Request(numbers(9), decoding)))
    prompts = [[*numbers(9), *tokens(first), 8, 9], [*numbers(4), 1, 2], [90, 91], numbers(9)]
    hook = llama.get_input_embeddings().register_forward_pre_hook(lambda _, read: sizes.append(read[0].shape[1]))
    for prompt, new in zip(prompts, (3, 2, 2, 1), strict=True):
        sizes.clear()
        (reply,) = say(running, Joining(Request(prompt, decoding)))
        assert sizes == [new, 1, 1, 1]
        assert reply.num_cached == len(prompt) - new
        hook_free = alone(llama, reply.joining)
        assert tokens(reply) == hook_free
    hook.remove()


def test_another_adapters_cache_is_of_no_use() -> None:
    running = running_of(model_of("llama", 2))
    request = Request(numbers(9), Decoding(2, stops=()))
    cached = [say(running, Joining(request, adapter))[0].num_cached for adapter in ("a0", "a1", None, "a0", None)]
    assert cached == [0, 0, 0, 8, 8]


def test_prompts_that_join_together_share_a_pass_each_with_its_own_cache(llama: Any) -> None:
    running = running_of(llama)
    decoding = Decoding(3, stops=())
    say(running, *(Joining(Request(numbers(length, length), decoding)) for length in (20, 6, 11)))
    asked = [Joining(Request([*numbers(length, length), 1, 2, 3], decoding)) for length in (20, 6, 11)]
    asked.append(Joining(Request([4, 5, 6], decoding)))
    sizes: list[Any] = []
    hook = llama.get_input_embeddings().register_forward_pre_hook(lambda _, read: sizes.append(tuple(read[0].shape)))
    replies = say(running, *asked)
    hook.remove()
    assert sizes == [(4, 3), (4, 1), (4, 1)]
    assert [reply.num_cached for reply in replies] == [20, 6, 11, 0]
    assert [tokens(reply) for reply in replies] == [alone(llama, one) for one in asked]


def test_several_replies_to_one_prompt_read_it_once() -> None:
    model = model_of("llama", 2)
    running = running_of(model, num_slots=6)
    prompt, drawn = numbers(9), Decoding(5, temperature=1.3, repetition_penalty=1.3, stops=())
    asked = [Joining(Request(prompt, drawn, number), "a1") for number in range(3)]
    asked += [Joining(Request(prompt, drawn, 3), "a0"), Joining(Request(numbers(4), drawn), "a1"), asked[0]]
    sizes: list[Any] = []
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda _, read: sizes.append(tuple(read[0].shape)))
    replies = say(running, *asked)
    hook.remove()
    assert sorted(sizes[:2]) == [(1, 4), (2, 9)] and set(sizes[2:]) == {(6, 1)}
    assert [reply.num_cached for reply in replies] == [0, 8, 8, 0, 0, 8]
    assert [tokens(reply) for reply in replies] == [alone(model, one) for one in asked]
    assert len({tuple(tokens(reply)) for reply in replies}) == 5


def test_padding_goes_with_the_longest_row(llama: Any) -> None:
    running = running_of(llama)
    long, short = running.join([
        Joining(Request(numbers(30), Decoding(2, stops=()))), Joining(Request(numbers(3), Decoding(9, stops=())))
    ])  # fmt: skip
    (batch,) = running._batches
    assert batch.cache.get_seq_length() == 30
    running.step()
    assert long.is_done
    assert batch.cache.get_seq_length() == 4
    finish(running)
    assert tokens(short) == alone(llama, short.joining)


def test_memory_is_bounded(llama: Any) -> None:
    running = running_of(llama, num_slots=2, num_conversations=2)
    ask = Joining(Request(numbers(3), Decoding(5, stops=())))
    with pytest.raises(FalconerError, match="2 replies are already being generated"):
        running.join([ask] * 3)
    running.join([ask])
    with pytest.raises(FalconerError, match="which is the maximum"):
        running.join([ask] * 2)
    finish(running)
    for start in range(5):
        say(running, Joining(Request(numbers(3, start), Decoding(5, stops=()))))
    assert [one.read[0] for one in running._finished._known] == [3, 4]
    (again,) = say(running, Joining(Request(numbers(3, 4), Decoding(5, stops=()))))
    assert again.num_cached == 2
    none = running_of(llama, num_conversations=0)
    say(none, ask)
    assert not len(none._finished)


# Keys and values of two layers with one head of 8, in fp64; a state in fp64 and one in fp32 of one layer.
@pytest.mark.parametrize(("kind", "size"), [("llama", 2 * 2 * 8 * 8 * 7), ("mamba2", 8 * (32 + 8) * 4 + 4 * 4 * 8 * 4)])
def test_conversations_are_cached_up_to_a_size(kind: str, size: int) -> None:
    for most_bytes, num in ((size - 1, 0), (size, 1), (2 * size, 2)):
        running = running_of(model_of(kind), most_bytes=most_bytes)
        for start in range(3):
            say(running, Joining(Request(numbers(3, start), Decoding(5, stops=()))))
        assert [one.read[0] for one in running._finished._known] == list(range(3))[3 - num :]


def test_a_left_reply_says_no_more_and_gives_its_slot_to_another(llama: Any) -> None:
    running = running_of(llama, num_slots=1)
    (left,) = running.join([Joining(Request(numbers(3), Decoding(9, stops=())))])
    running.step()
    running.leave(left)
    running.leave(left)
    assert running.num_running == 0 and left.is_done and running.step() == []
    (other,) = say(running, Joining(Request(numbers(5), Decoding(3, stops=()))))
    assert len(left.said) == 2 and tokens(other) == alone(llama, other.joining)


@contextmanager
def short_of_memory(monkeypatch: pytest.MonkeyPatch, model: Any, times: int) -> Iterator[None]:
    """Have the last layer run out of memory, after the first ones have written to the cache."""
    left, whole = times, model.model.layers[-1].forward

    def forward(*args: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left >= 0:
            raise torch.OutOfMemoryError
        return whole(*args, **named)

    with monkeypatch.context() as patched:
        patched.setattr(model.model.layers[-1], "forward", forward)
        yield


def test_a_step_without_memory_changes_nothing(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    running = running_of(llama)
    asked = [Joining(Request(numbers(length), Decoding(5, repetition_penalty=1.5, stops=()))) for length in (3, 12)]
    replies = running.join(asked)
    running.step()
    with short_of_memory(monkeypatch, llama, 1), pytest.raises(torch.OutOfMemoryError):
        running.step()
    assert [len(reply.said) for reply in replies] == [2, 2]
    finish(running)
    assert [tokens(reply) for reply in replies] == [alone(llama, one) for one in asked]


def test_a_request_without_memory_does_not_join_and_the_others_go_on(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = running_of(llama)
    asked = [Joining(Request(numbers(length), Decoding(4, stops=()))) for length in (3, 12, 40)]
    (first,) = running.join(asked[:1])
    with monkeypatch.context() as patched:
        # Of two that don't share a pass, the second one fails, while the first one is in the batch already.
        begin, calls = running._begin, []

        def second_fails(*given: Any) -> Any:
            calls.append(given)
            if len(calls) == 2:
                raise torch.OutOfMemoryError
            return begin(*given)

        patched.setattr(running, "_begin", second_fails)
        with pytest.raises(torch.OutOfMemoryError):
            running.join(asked[1:])
    merge = generic_running.merge
    with monkeypatch.context() as patched:
        patched.setattr(generic_running, "merge", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError))
        with pytest.raises(torch.OutOfMemoryError):
            running.join(asked[1:2])
    assert merge is generic_running.merge and running.num_running == 1
    more = running.join(asked[1:])
    finish(running)
    assert [tokens(reply) for reply in (first, *more)] == [alone(llama, one) for one in asked]


def test_what_is_only_cached_makes_room_first(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    running = running_of(llama)
    say(running, Joining(Request(numbers(5), Decoding(2, stops=()))))
    ask = Joining(Request(numbers(9), Decoding(4, stops=())))
    with short_of_memory(monkeypatch, llama, 1):
        (reply,) = running.join([ask])
    assert reply.num_cached == 0 and not len(running._finished)
    finish(running)
    assert tokens(reply) == alone(llama, ask)


def test_texts_longer_than_a_position_encoding_allows_are_not_batched() -> None:
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "rope_theta": 10000.0}
    config = Phi3Config(
        **IDS, **SIZES, num_key_value_heads=1, max_position_embeddings=64, original_max_position_embeddings=16,
        rope_parameters=rope,
    )  # fmt: skip
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    running = running_of(model)
    asked = [Joining(Request(numbers(length), Decoding(3, stops=()))) for length in (3, 20, 4)]
    replies = running.join(asked)
    assert sorted(batch.way for batch in running._batches) == ["batch", "uncached"]
    finish(running)
    for reply in replies:
        ids = list(reply.request.prompt)
        for said in reply.said:
            logits_V = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            logits_V[UNKNOWN] = -torch.inf
            ids.append(int(logits_V.argmax()))
            assert said.token == ids[-1]
